"""Settings of each profile, read from `profiles.yaml` into one small typed object each."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args, get_type_hints

import yaml

from corea.grpo import GRPOSettings
from corea.prompts import INSTRUCTION
from corea.support.files import checkout
from corea.support.hardware import Compute
from corea.support.models import ARCHITECTURES

ROOT = checkout() or Path.cwd()  # without a checkout, profiles write into the current folder
# What a result depends on, written out by name: a field that is added leaves old hashes alone.
_HASHED = (
    "name", "train_size", "calibration_size", "in_domain_size", "ood_size", "samples", "resamples",
    "temperature", "max_new_tokens", "seed", "instruction",
)  # fmt: skip
_IN_YAML = {float: (float, int), tuple[str, ...]: (list,)}  # types, if not the field's own


@dataclass(frozen=True, slots=True)
class Profile:
    """One way to run the paper."""

    name: str
    slm: str  # folder or hub id, as `llm`
    llm: str
    grpo: GRPOSettings
    train_size: int  # in questions, as the other sizes
    calibration_size: int
    in_domain_size: int
    ood_size: int | None  # None: all there are
    samples: int  # completions per question in every evaluation
    resamples: int
    temperature: float = 1.0
    max_new_tokens: int = 96
    batch_size: int = 256
    seed: int = 0
    instruction: str | None = None  # the system turn; mini models learnt the response format
    suite: str = "mini"  # the question sets, of `corea.questions.base.SUITES`
    backbones: tuple[str, ...] = ()  # hub models that are ablated in the SLM's place
    compute: Compute = field(default_factory=Compute)
    root: str = str(ROOT)  # holds `data/` and `figures/`
    data_folder: str = "data"

    @property
    def data(self) -> Path:
        """Runs, records and executed notebooks of this profile."""
        return Path(self.root) / self.data_folder / self.name

    @property
    def figures(self) -> Path:
        """Tables and figures of this profile."""
        return Path(self.root) / "figures" / self.name

    def reference(self) -> Profile:
        """The same profile, reading the tracked reference run instead of one made here."""
        return self.replace(root=str(ROOT), data_folder="data/reference")

    def settings(self) -> dict:
        """What a result depends on: no path of this machine, and no weights that have a hash."""
        settings = {name: getattr(self, name) for name in _HASHED}
        settings["grpo"] = self.grpo.hashed() | {"aggregation": self.grpo.aggregation}
        settings["use_cpu"] = self.compute.use_cpu
        if self.suite != "mini":
            settings |= {name: getattr(self, name) for name in ("suite", "slm", "llm")}
            settings["compute"] = self.compute.changes()
        return settings

    def replace(self, **changes) -> Profile:
        """A copy with some settings changed; an unknown key is refused by name."""
        _refuse_unknown(changes, Profile, "a profile")
        return dataclasses.replace(self, **changes)


def _refuse_unknown(settings: Iterable[str], kind: type, whose: str) -> None:
    known = sorted(field.name for field in dataclasses.fields(kind))
    if unknown := sorted(set(settings) - set(known)):
        choices = f"use one of {', '.join(known)}"
        raise ValueError(f"unknown setting {unknown[0]!r} for {whose}; {choices}")


def read_profiles(text: str) -> dict[str, Profile]:
    """Profiles by name, of YAML text. Raises ValueError for an unknown setting or a wrong value."""
    profiles = {}
    for name, settings in yaml.safe_load(text).items():
        instruction = None if settings.get("suite", "mini") == "mini" else INSTRUCTION
        defaults = {"name": name, "instruction": instruction}
        profiles[name] = _made(Profile, defaults | settings, f"profile {name!r}")
    return profiles


def _made(kind: type, settings: dict, whose: str):
    """A settings object of that kind from a mapping in the YAML."""
    _refuse_unknown(settings, kind, whose)
    values = {}
    for name, value in settings.items():
        hint = get_type_hints(kind)[name]
        if hint in (GRPOSettings, Compute) and isinstance(value, dict):
            value = _made(hint, value, f"{name} of {whose}")
        elif type(value) not in (_IN_YAML.get(hint) or get_args(hint) or (hint,)):
            wanted = hint.__name__ if isinstance(hint, type) else hint
            raise ValueError(f"{name}={value!r} of {whose} is not {wanted}")
        values[name] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:  # a setting that is missing, or out of range
        raise ValueError(f"{whose}: {error}") from error


PROFILES = read_profiles(Path(__file__).with_suffix(".yaml").read_text())


def load_profile(name: str) -> Profile:
    """The profile of that name, under the checkout or `COREA_ROOT`; ValueError if it cannot run."""
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}; use one of {', '.join(sorted(PROFILES))}")
    profile = PROFILES[name]
    if checkout() is None and profile.suite == "mini":
        needs = f"profile {name!r} reads the base models in data/base of a checkout, and this"
        remedy = "clone the repository and run `make paper` there"
        raise ValueError(f"{needs} library is installed without one; {remedy}")
    slm, llm = (m if m in ARCHITECTURES else str(ROOT / m) for m in (profile.slm, profile.llm))
    return profile.replace(slm=slm, llm=llm, root=os.environ.get("COREA_ROOT", profile.root))


def _check_machine(profile: Profile) -> None:
    """Raise ValueError if this machine has fewer GPUs than the profile, or smaller ones."""
    from torch import cuda

    gpus, least = profile.compute.gpus, profile.compute.memory_gib
    sizes = [cuda.get_device_properties(n).total_memory / 2**30 for n in range(cuda.device_count())]
    if sum(size >= 0.9 * least for size in sizes[:gpus]) < gpus:
        here = ", ".join(f"{size:.0f} GiB" for size in sizes) or "none"
        needs = f"profile {profile.name!r} is for {gpus} GPUs of {least:g} GB"
        plan = f"`make plan PROFILE={profile.name}` says what it takes"
        cpu = "`make paper` without a PROFILE runs the mini world on the CPU"
        raise ValueError(f"{needs}, and this machine has {here}; {plan}, {cpu}")


if __name__ == "__main__":
    try:
        _check_machine(load_profile(sys.argv[1]))
    except ValueError as error:
        sys.exit(str(error))
