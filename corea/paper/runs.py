"""Every run of `variants.RUNS`: train it, write its records, read them back.

What lies there from the same settings is kept.
"""

import dataclasses
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from corea import grpo
from corea.analysis import sources
from corea.costs import PriceList
from corea.engines.base import Engine, ModelEngine
from corea.engines.loading import model_engine
from corea.engines.local import TransformersEngine
from corea.evaluation import answer_records, are_kept, settings_of
from corea.grader import Grader
from corea.mini import pretrain
from corea.paper.profiles import Profile, load_profile
from corea.paper.shards import Shard, merge_shards
from corea.paper.variants import RUNS, SYSTEMS, TRAINED, ablations_of, spec_of
from corea.questions.base import CALIBRATION, TRAINING, Question, group_of, test_datasets
from corea.questions.load import load_questions
from corea.records import KEY, read_records, write_records
from corea.support import processes
from corea.support.files import atomic_write, git_commit, settings_hash
from corea.support.models import architecture_of

_PROBED = ("SLM", *TRAINED)  # systems whose hidden states a probe reads
_SAMPLING = ("samples", "temperature", "max_new_tokens", "instruction", "seed")  # in this order


def run_folder(profile: Profile, name: str) -> Path:
    """The folder of a training run: a main system's is in `runs/`, any other in `ablations/`."""
    return profile.data / ("runs" if name in SYSTEMS else "ablations") / name


def _systems_of(name: str) -> list[str]:
    """The systems whose records a run writes: itself and, if it has one, its own base SLM."""
    return [system for system in (name, f"{name} base") if system in RUNS]


def records_path(profile: Profile, system: str, dataset: str) -> Path:
    """The records of one system on one dataset, or on the calibration split ("calibration")."""
    name = system.removesuffix(" base")
    above = profile.data if name in SYSTEMS else run_folder(profile, name)
    return above / "records" / system.replace(" ", "-") / f"{dataset}.parquet"


def model_folder(profile: Profile, system: str) -> str:
    """The weights of a system: of its run, which must be finished, or a base's folder or hub id."""
    spec, folder = spec_of(profile, system), run_folder(profile, system)
    if spec.reward is None:
        return _base_folder(profile, spec.base)
    if not (folder / grpo.COMPLETE).exists():
        raise ValueError(f"{system} has no finished run at {folder}; train it first (`make paper`)")
    return str(folder / "model")


def _base_folder(profile: Profile, base: str | None) -> str:
    if base in pretrain.VARIANTS:
        return str(profile.data / "bases" / base)
    return profile.llm if base == "LLM" else base or profile.slm


def all_sets(profile: Profile) -> tuple[str, ...]:
    """The calibration split and the test sets of a profile."""
    return (CALIBRATION, *test_datasets(profile.suite))


def training_questions(profile: Profile) -> list[Question]:
    """The questions that every training run of a profile sees."""
    dataset, size = TRAINING[profile.suite], profile.train_size
    return load_questions(dataset, "train", size=size, seed=profile.seed)


def evaluation_questions(profile: Profile, dataset: str) -> list[Question]:
    """The questions of one reported dataset, or of the calibration split."""
    if dataset == CALIBRATION:
        source, few = TRAINING[profile.suite], profile.calibration_size
        return load_questions(source, CALIBRATION, size=few, seed=profile.seed)
    size = profile.in_domain_size if group_of(dataset) == "in-domain" else profile.ood_size
    return load_questions(dataset, "test", size=size, seed=profile.seed)


def run(profile: Profile, name: str) -> bool:
    """Train a run and write its records; a run that collapses says so, has none, and is False."""
    try:
        train(profile, name)
    except grpo.CollapseError as error:
        print(f"{name}: {error}; there are no records of it")
        return False
    generate(profile, name)
    return True


def train(profile: Profile, name: str) -> grpo.Run:
    """Train one run, with its own base if it has one, in as many processes as the profile has."""
    spec, folder = spec_of(profile, name), run_folder(profile, name)
    if spec.reward is None:
        raise ValueError(f"{name} is a base model, which is not trained; train L1-SLM, say")
    base, command = _base_folder(profile, spec.base), profile.compute.launch_command()
    if spec.base in pretrain.VARIANTS and not Path(base, "manifest.json").exists():
        pretrain.make_base(pretrain.VARIANTS[spec.base], base, profile.data.parent / "work")
    if command and processes.launched() == 1:  # each of the processes comes back here and trains
        os.environ["COREA_ROOT"] = profile.root
        processes.launch(command, "corea.paper.runs", profile.name, name)
        return grpo.Run(name, folder, grpo.run_settings(folder))
    return grpo.train(
        base,
        training_questions(profile),
        folder,
        reward=spec.reward,
        settings=spec.settings(profile),
        name=name,
        compute=profile.compute,
        instruction=profile.instruction,
    )


def engine_for(profile: Profile, system: str) -> ModelEngine:
    """An engine that answers as one system of the profile."""
    names = ("max_new_tokens", "temperature", "batch_size", "instruction")
    options = {name: getattr(profile, name) for name in names}
    folder = model_folder(profile, system)
    return model_engine(folder, profile.compute, name=system, keep_logprobs=True, **options)


def generate(profile: Profile, name: str, shard: str = "1/1") -> list[Path]:
    """Ask a run every evaluation question, write its records, and fit a main SLM's probe.

    A shard "2/8" asks only the second eighth of each set, on this or another machine; once all lie
    there, a call without one puts them together.
    """
    profile = profile.replace(samples=spec_of(profile, name).samples(profile))
    written = []
    for system in _systems_of(name):
        engine, model = engine_for(profile, system), grpo.fingerprint(model_folder(profile, system))
        run = grpo.run_settings(run_folder(profile, name)) if RUNS[system].reward else "base"
        paths = {dataset: records_path(profile, system, dataset) for dataset in all_sets(profile)}
        written += answer_sets(profile, engine, model, run, paths, Shard.parse(shard))
        if shard == "1/1" and system in _PROBED:
            _fit_probe(profile, engine, system)
    return written


def answer_sets(
    profile: Profile, engine: Engine, model: str, run: str, paths: dict[str, Path], shard: Shard
) -> list[Path]:
    """Write records of an engine, whose weights `model` names; those of the same settings stay."""
    samples, seed, commit = profile.samples, profile.seed, git_commit()[0]
    sampling = [getattr(profile, setting) for setting in _SAMPLING]
    with Grader() as grader:
        for dataset, whole in paths.items():
            questions, path = evaluation_questions(profile, dataset), shard.path(whole)
            made_of = [model, [q.hashed() for q in questions], *sampling, "log-probabilities"]
            settings = settings_hash(made_of)
            if are_kept(path, settings, questions):
                print(f"{engine.name} {dataset}: records of these settings are there, kept")
            elif shard.count == 1 and merge_shards(path, settings, questions, samples):
                print(f"{engine.name} {dataset}: put together from its shards")
            else:
                group = CALIBRATION if dataset == CALIBRATION else group_of(dataset)
                options: dict = {"dataset": dataset, "group": group, "samples": samples}
                rows = answer_records(engine, shard.share(questions), grader, seed=seed, **options)
                rows = rows.assign(profile=profile.name, system=engine.name, run=run, seed=seed)
                write_records(rows.assign(settings=settings, commit=commit), path)
    return [shard.path(whole) for whole in paths.values()]


def _fit_probe(profile: Profile, engine: ModelEngine, system: str) -> None:
    """Fit a probe on an SLM's hidden states, on calibration questions only; a row per record."""
    from tqdm.auto import tqdm

    records = {d: read_records(records_path(profile, system, d)) for d in all_sets(profile)}
    path, together = _results(profile, system)[-1], pd.concat(records.values())
    settings = _probe_settings(profile, together)
    if settings_of(path) == settings:
        print(f"{system}: the probe of these records is there, kept")
        return
    if not isinstance(engine, TransformersEngine):  # only transformers shows hidden states
        engine.close()
        plain = dataclasses.replace(profile.compute, engine="transformers")
        engine = cast("TransformersEngine", engine_for(profile.replace(compute=plain), system))
    states = {}
    for dataset, answers in tqdm(records.items(), desc=f"{system} hidden states"):
        questions = [Question(text) for text in answers["question"]]
        states[dataset] = engine.hidden_states(questions, list(answers["text"]))
    probe, confidences = sources.probe_confidences(states, records, seed=profile.seed)
    rounded = np.round(np.concatenate([confidences[dataset] for dataset in records]), 6)
    rows = together[list(KEY)].assign(probe=rounded, layer=probe.layer, epochs=probe.epochs)
    with atomic_write(path, "wb") as stream:
        rows.assign(settings=settings).to_parquet(stream, compression="zstd", index=False)
    print(f"{system}: probe on layer {probe.layer}, held-out log loss {probe.loss:.3f}")


def _probe_settings(profile: Profile, records: pd.DataFrame) -> str:
    """The hash of what a system's probe is made from."""
    settings = records.groupby("dataset")["settings"].first()
    return settings_hash(["probe", sources.PROBE_RECIPE, [settings[d] for d in all_sets(profile)]])


def with_results(profile: Profile) -> Profile:
    """The profile, or its tracked reference run if no main system was asked here; says which."""
    if (profile.data / "records").is_dir() or not profile.reference().data.is_dir():
        return profile
    print(f"no records under {profile.data}: showing the tracked reference run")
    return profile.reference()


def results_of(profile: Profile, name: str) -> Profile | None:
    """The profile that holds a run's whole results: this or, of an ablation, its reference."""
    holders = [profile] if name in SYSTEMS else [profile, profile.reference()]
    return next((p for p in holders if all(path.exists() for path in _results(p, name))), None)


def _results(profile: Profile, name: str) -> list[Path]:
    """The files of a whole run: its log, its records, and its probe if it has one."""
    log = [run_folder(profile, name) / "log.csv"] if RUNS[name].reward else []
    records = [records_path(profile, s, d) for s in _systems_of(name) for d in all_sets(profile)]
    probe = [profile.data / "probes" / f"{name}.parquet"] if name in _PROBED else []
    return log + records + probe


def records_paths(profile: Profile, names: Iterable[str] = SYSTEMS, kind=".parquet") -> list[Path]:
    """The files of these runs, records and probes or ".csv" logs; ablations not run are left out.

    Raises FileNotFoundError if a file of a main system is missing, or none of the runs was made.
    """
    paths = []
    for name in names:
        if holder := results_of(profile, name):
            paths += _results(holder, name)
        elif name in SYSTEMS:
            missing = next(path for path in _results(profile, name) if not path.exists())
            raise FileNotFoundError(f"no {missing}; run `make paper PROFILE={profile.name}`")
    if not paths:
        raise FileNotFoundError(f"no ablation lies under {profile.data}; run `make ablations`")
    return [path for path in paths if path.suffix == kind]


def load_logs(profile: Profile, names: Iterable[str] = TRAINED) -> pd.DataFrame:
    """The training logs of these runs, one under the other; raises as `records_paths`."""
    return pd.concat(map(pd.read_csv, records_paths(profile, names, ".csv")), ignore_index=True)


def load_records(profile: Profile, names: Iterable[str] = SYSTEMS) -> pd.DataFrame:
    """All records of these runs, with a column `probe`: confidences of the main SLMs' probes.

    Raises as `records_paths`, and ValueError if a probe was fitted on other records.
    """
    paths, probes = records_paths(profile, names), []
    records = read_records([path for path in paths if path.parent.name != "probes"])
    for path in (path for path in paths if path.parent.name == "probes"):
        probe, rows = pd.read_parquet(path), records[records["system"] == path.stem]
        if set(probe["settings"]) != {_probe_settings(profile, rows)}:
            raise ValueError(f"{path} is the probe of other records; make it again (`make paper`)")
        probes.append(probe[[*KEY, "probe"]])
    if not probes:
        return records.assign(probe=np.nan)
    return records.merge(pd.concat(probes), on=list(KEY), how="left", validate="one_to_one")


def where_from(profile: Profile) -> pd.DataFrame:
    """Where each ablation comes from: columns variant, results ("made here", "not run", ...)."""
    names = ablations_of(profile)
    kinds = {None: "not run", profile.reference(): "reference run", profile: "made here"}
    results = [kinds[results_of(profile, name)] for name in names]
    return pd.DataFrame({"variant": names, "results": results})


def by_seed(records: pd.DataFrame, main: pd.DataFrame) -> dict[str, list[pd.DataFrame]]:
    """The records of each trained system per seed: of the main run, then of "L1-SLM-seed-1" ..."""
    rows = pd.concat([main, records])
    trained = rows["system"].str.replace(r"-seed-\d+$", "", regex=True)
    return {name: [run for _, run in rows[trained == name].groupby("system")] for name in TRAINED}


def prices_of(profile: Profile, name: str = "SLM") -> PriceList:
    """Prices for a cascade of a run's SLM and the LLM: a token costs by its model's parameters."""
    if (base := RUNS[name].base) in pretrain.VARIANTS:  # which may not be made yet
        vocabulary = architecture_of(profile.slm).vocab_size
        slm = pretrain.build_model(pretrain.VARIANTS[base], vocabulary).num_parameters()
    else:
        slm = architecture_of(_base_folder(profile, base)).parameters
    return PriceList.from_parameters(slm, architecture_of(profile.llm).parameters)


def main(profile: str, name: str) -> int:
    """Train one run, as each of several processes does; one line and status 1 for wrong input."""
    try:
        train(load_profile(profile), name)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
