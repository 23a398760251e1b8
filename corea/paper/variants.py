"""Which runs there are, and which questions the ablations answer (`axes.csv`).

An ablation differs in what it names from `ANCHOR`: COREA's recipe, but on two fifths of the steps
and three quarters of the questions per step.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from corea.grpo import GRPOSettings
from corea.mini import pretrain
from corea.paper.profiles import PROFILES, Profile
from corea.rewards import REWARDS, RewardSpec

ANCHOR = "anchor"


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What one run is made of."""

    reward: RewardSpec | None = REWARDS["L1"]  # None for a base model, which only answers
    changes: dict = field(default_factory=dict)  # of `GRPOSettings`, against the anchor's
    base: str | None = None  # None for the profile's SLM, "LLM", of `pretrain.VARIANTS`, a hub id
    full: bool = False  # as long as the main runs, and asked as often

    def settings(self, profile: Profile) -> GRPOSettings:
        """The run's GRPO settings; another group size keeps the number of completions per step."""
        settings = replace(profile.grpo, **self.changes)
        if self.full:
            return settings
        steps = max(1, settings.steps * 2 // 5)
        completions = max(1, settings.questions_per_step * 3 // 4) * profile.grpo.num_generations
        questions = max(1, completions // settings.num_generations)
        return replace(settings, steps=steps, questions_per_step=questions)

    def decodings(self, profile: Profile) -> dict[str, int]:
        """Completions per evaluation question: of an ablation two at the headline, and greedy."""
        if self.full:
            return profile.decodings
        kept = (profile.headline, "greedy")
        return {name: min(2, n) for name, n in profile.decodings.items() if name in kept}


_BASES = (*pretrain.VARIANTS, *PROFILES["paper"].backbones)
# The trained systems differ only in their reward.
TRAINED = {"RLVR-SLM": REWARDS["RLVR"], "Brier-SLM": REWARDS["Brier"], "L1-SLM": REWARDS["L1"]}
SYSTEMS = ("SLM", *TRAINED, "LLM")
_NO_STD, _APART = {"scale_rewards": "none"}, {"aggregation": "normalize_then_sum"}
SMOOTH = "no-std"  # the recipe of "smooth", COREA with smooth confidences, at full length
RUNS: dict[str, RunSpec] = {
    "SLM": RunSpec(None, full=True),
    **{name: RunSpec(reward, full=True) for name, reward in TRAINED.items()},
    "LLM": RunSpec(None, base="LLM", full=True),
    ANCHOR: RunSpec(),
    "none": RunSpec(REWARDS["RLVR"]),
    "l2": RunSpec(RewardSpec("l2", "group")),
    "kl": RunSpec(REWARDS["KL"]),
    "brier": RunSpec(RewardSpec("l2", "sample")),
    "log": RunSpec(REWARDS["log"]),
    **{f"mix-{w}": RunSpec(RewardSpec("l2", w)) for w in (0.25, 0.5, 0.75)},
    **{f"rollouts-{n}": RunSpec(changes={"num_generations": n}) for n in (4, 16, 32)},
    "no-std": RunSpec(changes=_NO_STD),
    "normalised-apart": RunSpec(changes=_APART),
    "brier-no-std": RunSpec(REWARDS["Brier"], _NO_STD),
    "brier-normalised-apart": RunSpec(REWARDS["Brier"], _APART),
    "segments": RunSpec(changes={"segments": True}),
    "segments-no-std": RunSpec(changes={"segments": True} | _NO_STD),
    **{f"weight-{w:g}": RunSpec(RewardSpec(confidence_weight=w)) for w in (0.3, 3.0)},
    **{f"beta-{b}": RunSpec(changes={"beta": b}) for b in (0.0, 0.01, 0.1)},
    **{base.split("/")[-1]: RunSpec(base=base) for base in _BASES},
    **{f"{base.split('/')[-1]} base": RunSpec(None, base=base) for base in _BASES},
}
RUNS["smooth"] = replace(RUNS[SMOOTH], full=True)
# Runs of three training seeds: the main systems, and what decides how smooth confidences become.
SEEDED = (*TRAINED, "smooth", ANCHOR, "no-std", "normalised-apart", "brier")
SEEDED += ("brier-no-std", "brier-normalised-apart", "segments", "segments-no-std")
RUNS |= {
    f"{name}-seed-{seed}": replace(RUNS[name], changes=RUNS[name].changes | {"seed": seed})
    for seed in (1, 2)
    for name in SEEDED
}
IN_PAPER = (ANCHOR, "l2", "brier")  # ablations of `make paper`; `make ablations` runs the others

# What is asked, and the runs that answer it, in the order of tables; labels are what a reader sees.
AXES: dict[str, dict[str, str]] = {}
for _row in pd.read_csv(Path(__file__).with_name("axes.csv"), dtype=str).itertuples():
    AXES.setdefault(_row.axis, {})[_row.label] = _row.run
REFERENCES = {"target (L2)": "l2"}  # what an axis compares with, if not with the anchor


def ablations_of(profile: Profile) -> list[str]:
    """Names of the profile's runs that are trained and no seed of another, or main system."""
    names = (name for name in runs_of(profile) if RUNS[name].reward and name not in SYSTEMS)
    return [name for name in names if not seed_of(name)[1]]


def seed_of(run: str) -> tuple[str, int]:
    """The run that another is a seed of, and which: ("L1-SLM", 2) of "L1-SLM-seed-2"."""
    name, _, seed = run.partition("-seed-")
    return name, int(seed or 0)


def with_seeds(names: Iterable[str]) -> list[str]:
    """These runs, each with its other seeds behind it."""
    runs = (run for name in names for run in RUNS if name in (run, seed_of(run)[0]))
    return list(dict.fromkeys(runs))


def spec_of(profile: Profile, name: str) -> RunSpec:
    """The run of that name. Raises ValueError for one that the profile does not have."""
    if name not in (known := runs_of(profile)):
        unknown = f"unknown run {name!r} of profile {profile.name!r}"
        raise ValueError(f"{unknown}; use one of {', '.join(known)}")
    return RUNS[name]


def runs_of(profile: Profile) -> list[str]:
    """Names of the runs that a profile has: bases are of the mini world, or of the hub."""
    bases = (None, "LLM", *(pretrain.VARIANTS if profile.suite == "mini" else profile.backbones))
    return [name for name, spec in RUNS.items() if spec.base in bases]
