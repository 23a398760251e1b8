"""Ablation variants differ from the anchor in what they name, and a run is trained, kept and read back."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from corea import grpo
from corea.engines.local import TransformersEngine
from corea.paper import runs, variants
from corea.paper.profiles import PROFILES, Profile, load_profile

ROOT = Path(__file__).resolve().parent.parent
PROFILE = load_profile("smoke")


def test_every_axis_names_variants_that_exist_and_one_that_is_the_anchor_or_shares_its_length():
    for name, axis in variants.AXES.items():
        assert len(axis) >= 3 and set(axis.values()) <= set(variants.RUNS), name
    steps = {
        variants.RUNS[run].settings(PROFILE).steps
        for axis in variants.AXES.values()
        for run in axis.values()
    }
    assert len(steps) == 1, "runs that are compared are equally long"


def test_a_variant_differs_from_the_anchor_in_what_it_names_alone():
    cpu = load_profile("cpu")
    anchor = variants.RUNS[variants.ANCHOR].settings(cpu)
    names = [name for name, spec in variants.RUNS.items() if not spec.full]
    assert set(names) >= set(variants.IN_PAPER)
    for name in names:
        settings = variants.RUNS[name].settings(cpu)
        differs = {
            f.name
            for f in dataclasses.fields(settings)
            if getattr(settings, f.name) != getattr(anchor, f.name)
        }
        assert differs - {"questions_per_step"} == set(variants.RUNS[name].changes), name
        completions = settings.questions_per_step * settings.num_generations
        assert completions == anchor.questions_per_step * anchor.num_generations, (
            "equal total completions a step"
        )


def test_no_two_runs_are_the_same():
    cpu = load_profile("cpu")
    made_of = [
        (spec.reward, spec.reward and tuple(spec.settings(cpu).hashed().items()), spec.base)
        for spec in variants.RUNS.values()
    ]
    assert len(set(made_of)) == len(made_of)


def test_main_systems_have_three_seeds_of_full_length():
    cpu = load_profile("cpu")
    for system in variants.TRAINED:
        assert variants.RUNS[system].settings(cpu) == cpu.grpo
        for seed in (1, 2):
            spec = variants.RUNS[f"{system}-seed-{seed}"]
            assert spec.reward == variants.RUNS[system].reward
            assert spec.settings(cpu) == dataclasses.replace(cpu.grpo, seed=seed)


def test_an_ablation_is_asked_twice_and_a_seed_as_often_as_a_main_system():
    cpu = load_profile("cpu")
    samples = {name: variants.RUNS[name].samples(cpu) for name in ("anchor", "tiny base", "L1-SLM")}
    assert samples == {"anchor": 2, "tiny base": 2, "L1-SLM": cpu.samples}
    assert variants.RUNS["L1-SLM-seed-1"].samples(cpu) == cpu.samples


def make_says(variable: str, profile: str) -> list[str]:
    """What `make` takes a variable to be."""
    command = ["make", "-s", f"PROFILE={profile}", "--eval", f"tell: ; @echo $({variable})", "tell"]
    return subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_make_knows_the_same_variants(profile):
    assert tuple(make_says("IN_PAPER", profile)) == variants.IN_PAPER
    named = make_says("ABLATIONS", profile)
    assert len(named) == len(set(named)) and set(named) == set(
        variants.ablations_of(load_profile(profile))
    )


def test_an_unknown_run_is_one_clear_line(capsys):
    assert runs.main("smoke", "l3") == 1
    assert (
        capsys.readouterr()
        .err.strip()
        .startswith("unknown run 'l3' of profile 'smoke'; use one of SLM, RLVR-SLM, Brier-SLM")
    )


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    small = PROFILE.replace(
        root=str(tmp_path_factory.mktemp("root")),
        calibration_size=6,
        in_domain_size=6,
        ood_size=4,
        samples=2,
        train_size=32,
    )
    runs.run(small, "l2")
    return small


def test_a_run_is_trained_recorded_and_read_back(profile):
    records = runs.load_records(profile, ["l2"])
    assert set(records["system"]) == {"l2"} and records["numerals"].notna().any()
    assert set(records["run"]) == {grpo.run_settings(runs.run_folder(profile, "l2"))}
    assert set(runs.load_logs(profile, ["l2"])["run"]) == {"l2"}
    where = runs.where_from(profile).set_index("variant")["results"]
    assert where["l2"] == "made here" and where["kl"] == "not run"


def test_a_finished_run_is_neither_trained_nor_asked_again(profile, monkeypatch):
    folder = runs.run_folder(profile, "l2")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    monkeypatch.setattr(grpo, "build_trainer", lambda *a, **k: pytest.fail("trained again"))
    runs.run(profile, "l2")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")} == before


def test_a_collapse_is_told_and_has_no_records(profile, monkeypatch, capsys):
    def collapse(*_, **__):
        raise grpo.CollapseError("stopped at step 40: accuracy fell")

    monkeypatch.setattr(grpo, "train", collapse)
    assert runs.run(profile, "kl") is False
    assert (
        "kl: stopped at step 40: accuracy fell; there are no records of it"
        in capsys.readouterr().out
    )


def test_a_run_that_was_cut_off_does_not_stand_for_a_whole_one(profile):
    path = runs.run_folder(profile, "l2") / "records" / "l2" / "weave.parquet"
    aside = path.rename(path.with_suffix(".aside"))
    assert runs.results_of(profile, "l2") is None
    aside.rename(path)
    assert runs.results_of(profile, "l2") == profile


def test_without_any_run_the_error_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="run `make ablations`"):
        runs.load_records(PROFILE.replace(root=str(tmp_path)), ["kl"])


def test_seeds_of_the_main_systems_are_found_by_name():
    main = pd.DataFrame({"system": ["L1-SLM", "RLVR-SLM", "Brier-SLM"]})
    extra = pd.DataFrame({"system": ["L1-SLM-seed-1", "L1-SLM-seed-2", "anchor"]})
    found = runs.by_seed(extra, main)
    assert {system: len(frames) for system, frames in found.items()} == {
        "RLVR-SLM": 1,
        "Brier-SLM": 1,
        "L1-SLM": 3,
    }


def test_a_smaller_slm_is_a_cheaper_one():
    prices = {
        name: runs.prices_of(load_profile("cpu"), name).slm.prompt
        for name in ("SLM", "anchor", "tiny", "small", "llama", "honest-0")
    }
    assert (
        prices["tiny"]
        < prices["small"]
        < prices["llama"]
        == pytest.approx(prices["anchor"], rel=0.05)
    )
    assert prices["honest-0"] == prices["anchor"] == prices["SLM"]


def test_a_setting_that_came_later_does_not_make_finished_runs_strangers():
    """The hash of the main runs is the one they were trained under, before rewards could be normalised apart."""
    settings = load_profile("cpu").grpo
    assert "aggregation" not in settings.hashed()
    assert (
        dataclasses.replace(settings, aggregation="normalize_then_sum").hashed()["aggregation"]
        == "normalize_then_sum"
    )
    assert runs.CALIBRATION == "calibration"


def test_a_run_made_before_modules_moved_is_found_again_and_nothing_is_redone(
    tmp_path, monkeypatch, capsys
):
    """The tracked run as a user's own, whose records do not hold their questions yet."""
    reference = load_profile("cpu").reference()
    profile = load_profile("cpu").replace(root=str(tmp_path))
    for folder in ("records/SLM", "records/L1-SLM", "probes", "runs", "ablations/anchor"):
        shutil.copytree(reference.data / folder, profile.data / folder)
    for path in (profile.data / "records").rglob("*.parquet"):
        pd.read_parquet(path).drop(columns=["question", "content_id"]).to_parquet(path)
    monkeypatch.setattr(grpo, "build_trainer", lambda *a, **k: pytest.fail("trained again"))
    for method in ("complete", "hidden_states"):
        monkeypatch.setattr(TransformersEngine, method, lambda *a, **k: pytest.fail("asked again"))
    for name in ("L1-SLM", "RLVR-SLM", "anchor"):
        assert runs.train(profile, name).settings == runs.train(reference, name).settings
    for name in ("SLM", "L1-SLM"):
        assert len(runs.generate(profile, name)) == 8
        assert capsys.readouterr().out.count("kept") == 9  # eight sets and the probe
    names = ["SLM", "L1-SLM"]
    pd.testing.assert_frame_equal(
        runs.load_records(profile, names), runs.load_records(reference, names)
    )


def test_a_field_that_a_profile_gets_later_leaves_its_hash_alone():
    @dataclasses.dataclass(frozen=True)
    class Wider(Profile):
        later: int = 0

    for profile in PROFILES.values():
        fields = {f.name: getattr(profile, f.name) for f in dataclasses.fields(profile)}
        assert Wider(**fields, later=1).settings() == profile.settings()


def test_a_base_model_is_not_trained_and_says_so():
    with pytest.raises(ValueError, match="SLM is a base model, which is not trained"):
        runs.train(PROFILE, "SLM")
