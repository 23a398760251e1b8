"""The stages behind the notebooks: train a system, write its records, read them all back.

Each stage does nothing, and says so, where its result already lies on disk made from the same settings.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from corea import grpo
from corea.analysis import sources
from corea.costs import PriceList
from corea.engines.base import Engine, ModelEngine
from corea.engines.loading import model_engine
from corea.engines.local import TransformersEngine
from corea.evaluation import answer_records, are_kept, settings_of
from corea.grader import Grader
from corea.paper.profiles import SYSTEMS, TRAINED, Profile, load_profile
from corea.paper.shards import WHOLE, Shard, merge_shards
from corea.questions.base import CALIBRATION, TRAINING, Question, group_of, test_datasets
from corea.questions.load import load_questions
from corea.records import KEY, read_records, write_records
from corea.support import processes
from corea.support.files import atomic_write, git_commit, settings_hash
from corea.support.models import architecture_of


def train_system(profile: Profile, system: str) -> grpo.Run:
    """RLCC training of one system of `profiles.TRAINED` from the profile's base SLM, in the profile's processes."""
    if system not in TRAINED:
        raise ValueError(f"system {system!r} is not trained; use one of {', '.join(TRAINED)}")
    return train_in_processes(profile, "corea.paper.runs", system) or grpo.train(
        profile.slm,
        training_questions(profile),
        profile.run_folder(system),
        reward=TRAINED[system],
        settings=profile.grpo,
        name=system,
        compute=profile.compute,
        instruction=profile.instruction,
    )


def train_in_processes(profile: Profile, module: str, name: str) -> grpo.Run | None:
    """Train in processes of their own where the profile has several; None where this process is to train.

    Each runs `python -m module --profile ... --train name`, which comes back here and trains.
    """
    command = profile.compute.launch_command()
    if command is None or processes.launched() > 1:
        return None
    os.environ["COREA_ROOT"] = profile.root
    processes.launch(command, module, "--profile", profile.name, "--train", name)
    folder = profile.run_folder(name) if name in TRAINED else profile.data / "ablations" / name
    return grpo.Run(name, folder, grpo.run_settings(folder))


def training_questions(profile: Profile) -> list[Question]:
    """The questions that every training run of a profile sees."""
    return load_questions(
        TRAINING[profile.suite], "train", size=profile.train_size, seed=profile.seed
    )


def model_folder(profile: Profile, system: str) -> str:
    """Where the weights of a system lie: the base models' folders, or its finished run's."""
    if system in ("SLM", "LLM"):
        return profile.slm if system == "SLM" else profile.llm
    if system not in TRAINED:
        raise ValueError(f"unknown system {system!r}; use one of {', '.join(SYSTEMS)}")
    folder = profile.run_folder(system)
    if not (folder / grpo.COMPLETE).exists():
        raise ValueError(
            f"{system} has no finished training run at {folder}; train it first (`make paper`)"
        )
    return str(folder / "model")


def engine_for(profile: Profile, system: str) -> ModelEngine:
    """An engine that answers as one system of the profile."""
    return engine_at(profile, model_folder(profile, system), system)


def engine_at(profile: Profile, folder: str | Path, name: str) -> ModelEngine:
    """An engine for the model in a folder or on the hub, with the profile's settings of generation."""
    return model_engine(
        folder,
        profile.compute,
        name=name,
        max_new_tokens=profile.max_new_tokens,
        temperature=profile.temperature,
        batch_size=profile.batch_size,
        instruction=profile.instruction,
        keep_logprobs=True,
    )


def all_sets(profile: Profile) -> tuple[str, ...]:
    """The calibration split and the test sets of a profile."""
    return (CALIBRATION, *test_datasets(profile.suite))


def evaluation_questions(profile: Profile, dataset: str) -> list[Question]:
    """The questions of one reported dataset, or of the calibration split."""
    if dataset == CALIBRATION:
        return load_questions(
            TRAINING[profile.suite], "calibration", size=profile.calibration_size, seed=profile.seed
        )
    size = profile.in_domain_size if group_of(dataset) == "in-domain" else profile.ood_size
    return load_questions(dataset, "test", size=size, seed=profile.seed)


def generate_records(profile: Profile, system: str, shard: str = "1/1") -> list[Path]:
    """Ask one system every evaluation question and write its records, one file a dataset; returns the files.

    A file made from the same model, questions and settings is kept, so a run that was killed goes on from there.  An SLM's
    probe is fitted then, see `probe_system`.  shard: "2/8" asks the second eighth of each set's questions alone, on this or
    another machine; once all shards lie there, a call without one puts them together.
    """
    engine = engine_for(profile, system)
    run = grpo.run_settings(profile.run_folder(system)) if system in TRAINED else "base"
    model = grpo.fingerprint(model_folder(profile, system))
    paths = {dataset: profile.records_path(system, dataset) for dataset in all_sets(profile)}
    written = answer_sets(profile, engine, model, run, paths, Shard.parse(shard))
    if system != "LLM" and shard == "1/1":
        probe_system(profile, engine, system)
    return written


def answer_sets(
    profile: Profile,
    engine: Engine,
    model: str,
    run: str,
    paths: Mapping[str, Path],
    shard: Shard = WHOLE,
) -> list[Path]:
    """Write the records of one engine on each dataset of `paths`, and keep those that lie there from the same settings.

    model: the fingerprint of the engine's weights; run: the settings hash of their training run, or "base".  Returns the
    files.
    """
    written = []
    with Grader() as grader:
        for dataset, whole in paths.items():
            questions = evaluation_questions(profile, dataset)
            settings = settings_hash([model, [q.hashed() for q in questions], profile.samples, profile.temperature, profile.max_new_tokens,
                                      profile.instruction, profile.seed, "log-probabilities"])  # fmt: skip
            path = shard.path(whole)
            written.append(path)
            if are_kept(path, settings, shard.part(questions)):
                print(f"{engine.name} {dataset}: records of these settings are there, kept")
                continue
            if shard == WHOLE and merge_shards(
                path, settings, {(q.id, n) for q in questions for n in range(profile.samples)}
            ):
                print(f"{engine.name} {dataset}: put together from its shards")
                continue
            group = CALIBRATION if dataset == CALIBRATION else group_of(dataset)
            rows = answer_records(
                engine,
                shard.part(questions),
                grader,
                dataset=dataset,
                group=group,
                samples=profile.samples,
                seed=profile.seed,
            )
            named = {
                "profile": profile.name,
                "system": engine.name,
                "run": run,
                "seed": profile.seed,
            }
            write_records(rows.assign(**named, settings=settings, commit=git_commit()[0]), path)
    return written


def probe_system(profile: Profile, engine: ModelEngine, system: str) -> Path:
    """Fit a probe on an SLM's hidden states and write its confidences, a row for each record; returns the file.

    Fitted on the calibration split alone.  Columns: the key of a record, probe, layer, epochs, settings.
    """
    sets = all_sets(profile)
    records = {d: read_records(profile.records_path(system, d)) for d in sets}
    path = probe_path(profile, system)
    settings = _probe_settings(frame["settings"].iloc[0] for frame in records.values())
    if settings_of(path) == settings:
        print(f"{system}: the probe of these records is there, kept")
        return path
    states, engine = {}, _with_states(profile, engine, system)
    for dataset, frame in tqdm(records.items(), desc=f"{system} hidden states"):
        questions = [Question(text) for text in frame["question"]]
        states[dataset] = engine.hidden_states(questions, list(frame["text"]))
    probe, found = sources.probe_confidences(states, records, CALIBRATION, seed=profile.seed)
    rows = pd.concat(
        [records[d][list(KEY)].assign(probe=np.round(found[d], 6)) for d in sets], ignore_index=True
    )
    rows = rows.assign(layer=probe.layer, epochs=probe.epochs, settings=settings)
    with atomic_write(path, "wb") as stream:
        rows.to_parquet(stream, compression="zstd", index=False)
    print(
        f"{system}: probe on layer {probe.layer} after {probe.epochs} epochs, held-out log loss {probe.loss:.3f}"
    )
    return path


def _with_states(profile: Profile, engine: ModelEngine, system: str) -> TransformersEngine:
    """An engine that shows hidden states: the one given, or in its place the same model in transformers."""
    if isinstance(engine, TransformersEngine):
        return engine
    engine.close()
    plain = dataclasses.replace(profile.compute, engine="transformers")
    return cast("TransformersEngine", engine_for(profile.replace(compute=plain), system))


def probe_path(profile: Profile, system: str) -> Path:
    """The confidences of an SLM's probe."""
    return profile.data / "probes" / f"{system}.parquet"


def _probe_settings(records_settings: Iterable[str]) -> str:
    return settings_hash(["probe", sources.PROBE_RECIPE, list(records_settings)])


def with_results(profile: Profile) -> Profile:
    """The profile, or its tracked reference run where nothing was run here yet; says which."""
    own = (profile.data / "records").is_dir()
    if own or not profile.reference().data.is_dir():
        return profile
    print(
        f"no records under {profile.data}: showing the reference run that is tracked with the package"
    )
    return profile.reference()


def records_paths(profile: Profile, systems=SYSTEMS) -> list[Path]:
    """The files of records of the profile's systems, then those of their probes.

    Raises FileNotFoundError where one is missing.
    """
    paths = [profile.records_path(s, d) for s in systems for d in all_sets(profile)]
    paths += [probe_path(profile, system) for system in systems if system != "LLM"]
    if missing := [path for path in paths if not path.exists()]:
        raise FileNotFoundError(
            f"no records at {missing[0]}; make them first (`make paper PROFILE={profile.name}`)"
        )
    return paths


def load_records(profile: Profile, systems=SYSTEMS) -> pd.DataFrame:
    """All records of the profile's systems, calibration split included (group "calibration").

    A column `probe` holds the confidences of the SLMs' probes, NaN for the LLM.
    """
    paths = records_paths(profile, systems)
    records = read_records([path for path in paths if path.parent.name != "probes"])
    probes = [_probe(profile, system, records) for system in systems if system != "LLM"]
    if not probes:
        return records.assign(probe=np.nan)
    return records.merge(pd.concat(probes), on=list(KEY), how="left", validate="one_to_one")


def _probe(profile: Profile, system: str, records: pd.DataFrame) -> pd.DataFrame:
    """A system's probe, checked to be the one of these records."""
    own = records[records["system"] == system].groupby("dataset")["settings"].first()
    found = pd.read_parquet(probe_path(profile, system))
    if not len(found) or found["settings"].iloc[0] != _probe_settings(
        own[d] for d in all_sets(profile)
    ):
        raise ValueError(
            f"{probe_path(profile, system)} is the probe of other records; make it again (`make paper`)"
        )
    return found[[*KEY, "probe"]]


def load_logs(profile: Profile) -> pd.DataFrame:
    """The training logs of all trained systems, one under the other."""
    return pd.concat(
        [pd.read_csv(profile.run_folder(s) / "log.csv") for s in TRAINED], ignore_index=True
    )


def prices_of(profile: Profile) -> PriceList:
    """Prices by parameter count: what one token costs is taken to grow as the floating-point operations it needs."""
    return PriceList.from_parameters(
        *(architecture_of(model).parameters for model in (profile.slm, profile.llm))
    )


def save_reference(profile: Profile) -> None:
    """Copy a finished run's records, logs and L1-SLM to the folder of the tracked reference run."""
    target = profile.reference().data
    for folder in ("records", "probes", "ablations", "runs"):
        shutil.rmtree(target / folder, ignore_errors=True)
    for folder in ("records", "probes", "ablations"):
        if (profile.data / folder).is_dir():
            shutil.copytree(
                profile.data / folder,
                target / folder,
                ignore=shutil.ignore_patterns("model", "checkpoints"),
            )
    for system in TRAINED:
        kept = ("log.csv", grpo.COMPLETE, grpo.SETTINGS)
        for name in kept:
            (target / "runs" / system).mkdir(parents=True, exist_ok=True)
            shutil.copy(profile.run_folder(system) / name, target / "runs" / system / name)
    shutil.copytree(profile.run_folder("L1-SLM") / "model", target / "runs" / "L1-SLM" / "model")


def main(arguments: Sequence[str] | None = None) -> None:
    """What other processes run: one training (`--train`), or the making of the tracked reference run (`--reference`)."""
    cli = argparse.ArgumentParser(
        prog="python -m corea.paper.runs", description=__doc__.splitlines()[0]
    )
    cli.add_argument("--profile", default="cpu")
    what = cli.add_mutually_exclusive_group(required=True)
    what.add_argument("--train", choices=TRAINED, metavar="SYSTEM")
    what.add_argument("--reference", action="store_true")
    given = cli.parse_args(arguments)
    profile = load_profile(given.profile)
    if given.reference:
        save_reference(profile)
    else:
        train_system(profile, given.train)


if __name__ == "__main__":
    main()
