"""What a rebuilding of the package must not move: hashes of profiles, runs and records, and the bytes of the drawn numbers.

`python -m tests.golden write` writes `tests/golden.json` (for maintainers, when a new run is tracked); `python -m tests.golden
check FOLDER` compares the CSV files that notebooks drew into a folder with it, and exits 1 if one differs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from corea import grpo
from corea.paper import runs, variants
from corea.paper.profiles import PROFILES, Profile, load_profile
from corea.support.files import settings_hash, sha256_of

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden.json"


def profile_hashes() -> dict[str, str]:
    """The hash of each profile's settings, without the machine's paths."""
    return {name: settings_hash(load_profile(name).settings()) for name in sorted(PROFILES)}


def trained(profile: Profile) -> dict[str, variants.RunSpec]:
    """The runs of a profile that train."""
    names = (*variants.TRAINED, *variants.ablations_of(profile))
    return {name: variants.RUNS[name] for name in names}


def setting_hashes() -> dict[str, str]:
    """The hash of the reward and GRPO settings of every run of every profile."""
    return {
        f"{name}/{run}": settings_hash([spec.reward.hashed(), spec.settings(profile).hashed()])
        for name in sorted(PROFILES)
        for profile in [load_profile(name)]
        for run, spec in trained(profile).items()
    }


def run_hashes() -> dict[str, str]:
    """The hash by which a run of the mini world is found again, for every run that starts from the shipped SLM."""
    found = {}
    for name in ("cpu", "smoke"):
        profile = load_profile(name)
        questions = runs.training_questions(profile)
        for run, spec in trained(profile).items():
            if spec.base is None:
                settings = spec.settings(profile)
                digest = grpo._hash(
                    profile.slm,
                    spec.reward,
                    questions,
                    settings,
                    profile.compute,
                    profile.instruction,
                )
                found[f"{name}/{run}"] = digest
    return found


def record_hashes() -> dict[str, str]:
    """The hash by which records of the base models are found again, as `runs.answer_sets` makes it."""
    found = {}
    for name in ("cpu", "smoke"):
        profile = load_profile(name)
        for system in ("SLM", "LLM"):
            model = grpo.fingerprint(runs.model_folder(profile, system))
            for dataset in runs.all_sets(profile):
                found[f"{name}/{system}/{dataset}"] = settings_hash([
                    model, [q.hashed() for q in runs.evaluation_questions(profile, dataset)], profile.samples, profile.temperature,
                    profile.max_new_tokens, profile.instruction, profile.seed, "log-probabilities",
                ])  # fmt: skip
    return found


def drawn(folder: Path) -> dict[str, str]:
    """The SHA-256 of every CSV in a folder of figures."""
    return {path.name: sha256_of(path) for path in sorted(folder.glob("*.csv"))}


def golden() -> dict:
    """What lies in `tests/golden.json`."""
    return json.loads(GOLDEN.read_text())


def main(arguments: list[str]) -> int:
    """The command line."""
    if arguments == ["write"]:
        found = {
            "profiles": profile_hashes(), "settings": setting_hashes(), "runs": run_hashes(), "records": record_hashes(),
            "csv": drawn(ROOT / "figures" / "cpu"),
        }  # fmt: skip
        GOLDEN.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        return 0
    (_, folder), kept = arguments, golden()["csv"]
    now = drawn(Path(folder))
    wrong = sorted(name for name in {*kept, *now} if kept.get(name) != now.get(name))
    print(
        f"golden: {len(kept) - len(wrong)} of {len(kept)} CSV files have the same bytes",
        *wrong,
        sep="\n  ",
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
