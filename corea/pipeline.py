"""The stages behind the notebooks: train a system, write its records, read them all back.

Each stage does nothing, and says so, where its result already lies on disk made from the same settings.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from corea import grpo, parser, prompts
from corea.cascade import CascadeAnswer
from corea.costs import PriceList
from corea.engines import TransformersEngine, load_model
from corea.files import git_commit, settings_hash
from corea.grader import Grader
from corea.profiles import SYSTEMS, TRAINED, Profile, load_profile
from corea.records import read_records, write_records
from corea.tasks import Question, group_of, load_questions, test_datasets

CALIBRATION = "calibration"


def train_system(profile: Profile, system: str) -> grpo.Run:
    """RLCC training of one system of `profiles.TRAINED` from the profile's base SLM."""
    if system not in TRAINED:
        raise ValueError(f"system {system!r} is not trained; use one of {', '.join(TRAINED)}")
    return grpo.train(
        profile.slm,
        TRAINED[system],
        load_questions("drill", "train", size=profile.train_size, seed=profile.seed),
        profile.grpo,
        profile.run_folder(system),
        name=system,
        use_cpu=profile.use_cpu,
        instruction=profile.instruction,
    )


def model_folder(profile: Profile, system: str) -> str:
    """Where the weights of a system lie: the base models' folders, or its finished run's."""
    if system in ("SLM", "LLM"):
        return profile.slm if system == "SLM" else profile.llm
    if system not in TRAINED:
        raise ValueError(f"unknown system {system!r}; use one of {', '.join(SYSTEMS)}")
    folder = profile.run_folder(system)
    if not (folder / grpo.COMPLETE).exists():
        raise ValueError(f"{system} has no finished training run at {folder}; train it first (`make paper`)")
    return str(folder / "model")


def engine_for(profile: Profile, system: str) -> TransformersEngine:
    """An engine that answers as one system of the profile."""
    folder = model_folder(profile, system)
    model = load_model(folder)
    return TransformersEngine(
        model if profile.use_cpu else model.to("cuda"),
        prompts.load_tokenizer(folder),
        name=system,
        max_new_tokens=profile.max_new_tokens,
        temperature=profile.temperature,
        batch_size=profile.batch_size,
        instruction=profile.instruction,
    )


def evaluation_questions(profile: Profile, dataset: str) -> list[Question]:
    """The questions of one reported dataset, or of the calibration split."""
    if dataset == CALIBRATION:
        return load_questions("drill", "calibration", size=profile.calibration_size, seed=profile.seed)
    size = profile.in_domain_size if group_of(dataset) == "in-domain" else profile.ood_size
    return load_questions(dataset, "test", size=size, seed=profile.seed)


def generate_records(profile: Profile, system: str) -> list[Path]:
    """Ask one system every evaluation question and write its records, one file a dataset; returns the files.

    A file made from the same model, questions and settings is kept, so a run that was killed goes on from there.
    """
    engine, written = engine_for(profile, system), []
    model = grpo.fingerprint(model_folder(profile, system))
    with Grader() as grader:
        for dataset in (CALIBRATION, *test_datasets()):
            path = profile.records_path(system, dataset)
            questions = evaluation_questions(profile, dataset)
            settings = settings_hash([model, questions, profile.samples, profile.temperature,
                                      profile.max_new_tokens, profile.instruction, profile.seed])  # fmt: skip
            if _settings_of(path) == settings:
                print(f"{system} {dataset}: records of these settings are there, kept")
            else:
                rows = _answer(profile, engine, grader, dataset, questions)
                write_records(_named(rows, profile, system, settings), path)
            written.append(path)
    return written


def decisions(questions: list[Question], answers: list[CascadeAnswer]) -> pd.DataFrame:
    """What a cascade did with each question, one sample each: who answered, what, whether right, at what cost."""
    with Grader() as grader:
        right = grader.grade(
            [a.answer for a in answers], [q.gold for q in questions], [q.answer_type for q in questions]
        )
    return pd.DataFrame(
        {
            "question": [q.text for q in questions],
            "confidence": [a.confidence for a in answers],
            "answered by": [a.source.upper() for a in answers],
            "answer": [a.answer for a in answers],
            "right": right,
            "cost": [a.cost for a in answers],
        }
    )


def with_results(profile: Profile) -> Profile:
    """The profile, or its tracked reference run where nothing was run here yet; says which."""
    own = (profile.data / "records").is_dir()
    if own or not profile.reference().data.is_dir():
        return profile
    print(f"no records under {profile.data}: showing the reference run that is tracked with the package")
    return profile.reference()


def records_paths(profile: Profile, systems=SYSTEMS) -> list[Path]:
    """The files of records of the profile's systems.  Raises FileNotFoundError where one is missing."""
    paths = [profile.records_path(s, d) for s in systems for d in (CALIBRATION, *test_datasets())]
    if missing := [path for path in paths if not path.exists()]:
        raise FileNotFoundError(f"no records at {missing[0]}; make them first (`make paper PROFILE={profile.name}`)")
    return paths


def load_records(profile: Profile, systems=SYSTEMS) -> pd.DataFrame:
    """All records of the profile's systems, calibration split included (group "calibration")."""
    return read_records(records_paths(profile, systems))


def load_logs(profile: Profile) -> pd.DataFrame:
    """The training logs of all trained systems, one under the other."""
    return pd.concat([pd.read_csv(profile.run_folder(s) / "log.csv") for s in TRAINED], ignore_index=True)


def prices_of(profile: Profile) -> PriceList:
    """Prices by parameter count: what one token costs is taken to grow as the floating-point operations it needs."""
    counts = [sum(p.numel() for p in load_model(f).parameters()) for f in (profile.slm, profile.llm)]
    return PriceList.from_parameters(*counts)


def _settings_of(path: Path) -> str | None:
    if not path.exists():
        return None
    column = pq.read_table(path, columns=["settings"])["settings"]
    return column[0].as_py() if len(column) else None


def _answer(profile, engine, grader, dataset: str, questions: list[Question]) -> list[dict]:
    total = len(questions) * profile.samples
    with tqdm(total=total, desc=f"{engine.name} {dataset}", mininterval=5) as bar:
        groups = engine.complete(questions, samples=profile.samples, seed=profile.seed, progress=bar.update)
    asked = [(q, n, c) for q, group in zip(questions, groups, strict=True) for n, c in enumerate(group)]
    responses = [parser.parse(c.text) for _, _, c in asked]
    correct = grader.grade(
        [r.answer for r in responses], [q.gold for q, _, _ in asked], [q.answer_type for q, _, _ in asked]
    )
    group = CALIBRATION if dataset == CALIBRATION else group_of(dataset)
    return [
        {
            "dataset": dataset, "group": group, "question_id": q.id, "family": q.family, "level": q.level, "sample": n,
            "answer": r.answer, "gold": q.gold, "answer_type": q.answer_type, "correct": right,
            "confidence": r.confidence, "well_formed": r.well_formed, "problems": " ".join(r.problems),
            "prompt_tokens": c.prompt_tokens, "completion_tokens": c.completion_tokens, "finish": c.finish, "text": c.text,
        }
        for (q, n, c), r, right in zip(asked, responses, correct, strict=True)
    ]  # fmt: skip


def _named(rows: list[dict], profile: Profile, system: str, settings: str) -> pd.DataFrame:
    """Rows with the names of what they came from."""
    run = "base"
    if system in TRAINED:
        run = grpo.run_settings(profile.run_folder(system))
    return pd.DataFrame(rows).assign(
        profile=profile.name, system=system, run=run, seed=profile.seed, settings=settings, commit=git_commit()[0]
    )


def save_reference(profile: Profile) -> None:
    """Copy a finished run's records, logs and L1-SLM to the folder of the tracked reference run."""
    target = profile.reference().data
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(profile.data / "records", target / "records")
    for system in TRAINED:
        kept = ("log.csv", grpo.COMPLETE, grpo.SETTINGS)
        for name in kept:
            (target / "runs" / system).mkdir(parents=True, exist_ok=True)
            shutil.copy(profile.run_folder(system) / name, target / "runs" / system / name)
    shutil.copytree(profile.run_folder("L1-SLM") / "model", target / "runs" / "L1-SLM" / "model")


if __name__ == "__main__":
    save_reference(load_profile("cpu"))
