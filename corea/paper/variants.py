"""Ablations: what each choice in the recipe is worth, one change at a time.

A variant is one run that differs from `ANCHOR` in the settings named.  The anchor is COREA's recipe on two fifths of the steps and
three quarters of the questions a step; the seeds of the main systems are as long as these.  An axis is a question asked of
several variants; variants that answer two questions are trained once.  `python -m corea.paper.variants NAME ...` runs them.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from corea import grpo
from corea.costs import PriceList
from corea.mini import pretrain
from corea.paper import runs
from corea.paper.profiles import PROFILES, TRAINED, Profile, load_profile
from corea.records import read_records
from corea.rewards import REWARDS, RewardSpec
from corea.support.models import architecture_of

ANCHOR = "anchor"
SAMPLES = 2


@dataclass(frozen=True, slots=True)
class Variant:
    """One ablation run.

    reward: what it is trained with.  changes: fields of `GRPOSettings` that differ from the anchor's.  base: the profile's SLM
    (None), one of `pretrain.VARIANTS` (in the mini world) or one of the profile's `backbones` (on the hub).  full: as long as
    the main runs, for the seeds of the main systems.
    """

    reward: RewardSpec = REWARDS["L1"]
    changes: dict = field(default_factory=dict)
    base: str | None = None
    full: bool = False

    def settings(self, profile: Profile) -> grpo.GRPOSettings:
        """The run's GRPO settings: the profile's; unless full, two fifths of its steps on three quarters of its questions."""
        main = profile.grpo
        if self.full:
            return dataclasses.replace(main, **self.changes)
        short = dataclasses.replace(
            main,
            steps=max(1, main.steps * 2 // 5),
            questions_per_step=max(1, main.questions_per_step * 3 // 4),
        )
        changes = dict(self.changes)
        if "num_generations" in changes:  # the same number of completions a step
            changes["questions_per_step"] = max(
                1, short.questions_per_step * short.num_generations // changes["num_generations"]
            )
        return dataclasses.replace(short, **changes)


def _l2(target) -> Variant:
    return Variant(RewardSpec("l2", target))


def _weight(weight: float) -> Variant:
    return Variant(RewardSpec(confidence_weight=weight))


VARIANTS: dict[str, Variant] = {
    ANCHOR: Variant(),
    "none": Variant(REWARDS["RLVR"]),
    "l2": _l2("group"),
    "kl": Variant(REWARDS["KL"]),
    "brier": _l2("sample"),
    "log": Variant(REWARDS["log"]),
    **{f"mix-{w}": _l2(w) for w in (0.25, 0.5, 0.75)},
    **{f"rollouts-{n}": Variant(changes={"num_generations": n}) for n in (4, 16, 32)},
    "no-std": Variant(changes={"scale_rewards": "none"}),
    "normalised-apart": Variant(changes={"aggregation": "normalize_then_sum"}),
    "weight-0.3": _weight(0.3),
    "weight-3": _weight(3.0),
    **{f"beta-{b}": Variant(changes={"beta": b}) for b in (0.0, 0.01, 0.1)},
    **{name: Variant(base=name) for name in pretrain.VARIANTS},
    **{name.rsplit("/", 1)[1]: Variant(base=name) for name in PROFILES["paper"].backbones},
    **{
        f"{system}-seed-{seed}": Variant(REWARDS[reward], {"seed": seed}, full=True)
        for seed in (1, 2)
        for system, reward in (("L1-SLM", "L1"), ("RLVR-SLM", "RLVR"), ("Brier-SLM", "Brier"))
    },
}

# Those that `make paper` runs; the others come from `make ablations` or the tracked reference run.
IN_PAPER = (ANCHOR, "l2", "brier")

# What is asked, and the variants that answer it, in the order of tables and figures; labels are what a reader sees.
AXES: dict[str, dict[str, str]] = {
    "confidence reward": {
        "none": "none",
        "L1": ANCHOR,
        "L2": "l2",
        "KL": "kl",
        "Brier": "brier",
        "log": "log",
    },
    "target (L2)": {
        "group": "l2",
        ".25": "mix-0.25",
        ".5": "mix-0.5",
        ".75": "mix-0.75",
        "sample": "brier",
    },
    "rollouts a group": {"4": "rollouts-4", "8": ANCHOR, "16": "rollouts-16", "32": "rollouts-32"},
    "normalisation": {
        "by group std": ANCHOR,
        "no std": "no-std",
        "each reward": "normalised-apart",
    },
    "confidence weight": {"0": "none", ".3": "weight-0.3", "1": ANCHOR, "3": "weight-3"},
    "KL to the base": {"0": "beta-0.0", ".01": "beta-0.01", ".03": ANCHOR, ".1": "beta-0.1"},
    "honest texts": {"0": "honest-0", ".1": "honest-0.1", ".33": "honest-0.33", ".4": ANCHOR},
    "backbone": {
        "tiny": "tiny",
        "small": "small",
        "shipped": ANCHOR,
        "Llama": "llama",
        "Qwen 1.5B": "Qwen2.5-1.5B-Instruct",
        "Llama 8B": "Llama-3.1-8B-Instruct",
    },
}

REFERENCES = {"target (L2)": "l2"}  # what an axis compares with, where that is not the anchor


def base_folder(profile: Profile, base: str | None) -> str:
    """Where the base SLM of a variant lies, or will; a hub id for one of the hub."""
    if base in pretrain.VARIANTS:
        return str(profile.data / "bases" / base)
    return base or profile.slm


def make_base(profile: Profile, base: str) -> str:
    """Train a base SLM of `pretrain.VARIANTS` where it does not lie there yet; returns its folder, or the hub id of another."""
    folder = Path(base_folder(profile, base))
    if base in pretrain.VARIANTS and not (folder / "manifest.json").exists():
        pretrain.make_base(pretrain.VARIANTS[base], folder, profile.data.parent / "work")
    return base_folder(profile, base)


def variants_of(profile: Profile) -> tuple[str, ...]:
    """Names of the variants that a profile has: its bases are those of the mini world, or those of the hub."""
    bases = (None, *(pretrain.VARIANTS if profile.suite == "mini" else profile.backbones))
    return tuple(name for name, chosen in VARIANTS.items() if chosen.base in bases)


def variant(profile: Profile, name: str) -> Variant:
    """The variant of that name.  Raises ValueError for one that the profile does not have."""
    if name not in (known := variants_of(profile)):
        raise ValueError(
            f"unknown ablation {name!r} of profile {profile.name!r}; use one of {', '.join(known)}"
        )
    return VARIANTS[name]


def train(profile: Profile, name: str, *, show_progress: bool = True) -> grpo.Run:
    """Train one variant; does nothing where that is done already, and goes on where a run was cut off."""
    chosen = variant(profile, name)
    base = make_base(profile, chosen.base) if chosen.base else profile.slm
    return runs.train_in_processes(profile, "corea.paper.variants", name) or grpo.train(
        base,
        runs.training_questions(profile),
        run_folder(profile, name),
        reward=chosen.reward,
        settings=chosen.settings(profile),
        name=name,
        compute=profile.compute,
        instruction=profile.instruction,
        show_progress=show_progress,
    )


def run_folder(profile: Profile, name: str) -> Path:
    """Where the training run of a variant lies."""
    return profile.data / "ablations" / name


def generate(profile: Profile, name: str) -> None:
    """Write the records of a finished variant, `SAMPLES` a question (as many as the profile for the seeds of main systems).

    The base SLM of a variant that has its own is asked too: what training adds is seen beside where it began.
    """
    chosen = variant(profile, name)
    asked = profile if chosen.full else profile.replace(samples=min(SAMPLES, profile.samples))
    run = run_folder(profile, name)
    models: dict[str, str | Path] = {name: run / "model"}
    if chosen.base:
        models[f"{name} base"] = base_folder(profile, chosen.base)
    for system, folder in models.items():
        engine = runs.engine_at(asked, folder, system)
        settings = "base" if system.endswith(" base") else grpo.run_settings(run)
        sets = runs.all_sets(profile)
        paths = {
            dataset: run / "records" / system.replace(" ", "-") / f"{dataset}.parquet"
            for dataset in sets
        }
        runs.answer_sets(asked, engine, grpo.fingerprint(folder), settings, paths)


def results_folder(profile: Profile, name: str) -> Path | None:
    """Where a variant's results lie whole: in the run made here or, where none was, in the tracked reference run; or None."""
    for folder in (run_folder(profile, name), run_folder(profile.reference(), name)):
        if all(path.exists() for path in _paths(profile, folder, name)):
            return folder
    return None


def _paths(profile: Profile, folder: Path, name: str) -> list[Path]:
    """The files of a whole variant: its log, and the records of the run and of its own base SLM."""
    systems = [name, *([f"{name}-base"] if VARIANTS[name].base else [])]
    sets = runs.all_sets(profile)
    return [
        folder / "log.csv",
        *(folder / "records" / system / f"{d}.parquet" for system in systems for d in sets),
    ]


def records_paths(profile: Profile, names: Sequence[str] = tuple(VARIANTS)) -> list[Path]:
    """The files of records of the variants that were run, here or in the tracked reference run.

    Raises FileNotFoundError where there are none.
    """
    found = [results_folder(profile, name) for name in names]
    paths = [
        path
        for name, folder in zip(names, found, strict=True)
        if folder
        for path in _paths(profile, folder, name)[1:]
    ]
    if not paths:
        raise FileNotFoundError(
            f"no ablation was run under {profile.data / 'ablations'}; run `make ablations`"
        )
    return paths


def load_records(profile: Profile, names: Sequence[str] = tuple(VARIANTS)) -> pd.DataFrame:
    """The records of `records_paths`: of the variants, and of their own base SLMs ("tiny base")."""
    return read_records(records_paths(profile, names))


def load_logs(profile: Profile, names: Sequence[str] = tuple(VARIANTS)) -> pd.DataFrame:
    """The training logs of the variants that were run, one under the other."""
    found = [folder / "log.csv" for name in names if (folder := results_folder(profile, name))]
    return pd.concat([pd.read_csv(path) for path in found], ignore_index=True)


def where_from(profile: Profile) -> pd.DataFrame:
    """Where each variant's results come from: columns variant, results ("made here", "reference run" or "not run")."""
    kinds: dict[Path | None, str] = {None: "not run"}
    kinds |= {
        run_folder(p, name): kind
        for p, kind in ((profile.reference(), "reference run"), (profile, "made here"))
        for name in variants_of(profile)
    }
    return pd.DataFrame(
        [(name, kinds[results_folder(profile, name)]) for name in variants_of(profile)],
        columns=["variant", "results"],
    )


def prices_of(profile: Profile) -> dict[str, PriceList]:
    """The price list of each variant: an SLM of another size has another price."""
    llm = architecture_of(profile.llm).parameters
    bases = {name: VARIANTS[name].base for name in variants_of(profile)}
    return {
        name: PriceList.from_parameters(_parameters(profile, base), llm)
        for name, base in bases.items()
    }


def _parameters(profile: Profile, base: str | None) -> int:
    """Parameters of a base SLM, which need not have been made yet."""
    if base in pretrain.VARIANTS:
        vocabulary = architecture_of(profile.slm).vocab_size
        return sum(
            p.numel()
            for p in pretrain.build_model(pretrain.VARIANTS[base], vocabulary).parameters()
        )
    return architecture_of(base or profile.slm).parameters


def seeds_of(records: pd.DataFrame, main: pd.DataFrame) -> dict[str, list[pd.DataFrame]]:
    """The records of each main system for each training seed: the main run's, then those of `records` ("L1-SLM-seed-1").

    Seeds whose runs are not there are left out.
    """
    found = {}
    for system in TRAINED:
        names = [
            name
            for name in VARIANTS
            if name.startswith(f"{system}-seed-") and name in set(records["system"])
        ]
        found[system] = [
            main[main["system"] == system],
            *(records[records["system"] == name] for name in names),
        ]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; one clear line and exit status 1 for wrong input."""
    cli = argparse.ArgumentParser(
        prog="python -m corea.paper.variants", description=__doc__.splitlines()[0]
    )
    cli.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of {', '.join(VARIANTS)}; all where none is given",
    )
    cli.add_argument("--profile", default="cpu", choices=sorted(PROFILES))
    cli.add_argument(
        "--train", metavar="NAME", help="only train this one: what each of several processes runs"
    )
    given = cli.parse_args(arguments)
    profile = load_profile(given.profile)
    try:
        if given.train:
            train(profile, given.train)
            return 0
        for name in given.names or variants_of(profile):
            run(profile, name)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def run(profile: Profile, name: str) -> bool:
    """Train and record one variant; returns whether its records are there.

    One that collapses says so and has none.  Run again, it goes on from its last checkpoint and collapses once more.
    """
    try:
        train(profile, name)
    except grpo.CollapseError as error:
        print(f"{name}: {error}; there are no records of it")
        return False
    generate(profile, name)
    return True


if __name__ == "__main__":
    sys.exit(main())
