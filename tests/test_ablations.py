"""Ablation variants differ from the anchor in what they name, and a run is trained, kept and read back."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from corea import grpo
from corea.paper import runs, variants
from corea.paper.profiles import PROFILES, TRAINED, load_profile

ROOT = Path(__file__).resolve().parent.parent
PROFILE = load_profile("smoke")


def test_every_axis_names_variants_that_exist_and_one_that_is_the_anchor_or_shares_its_length():
    for name, axis in variants.AXES.items():
        assert len(axis) >= 3 and set(axis.values()) <= set(variants.VARIANTS), name
    steps = {
        variants.VARIANTS[run].settings(PROFILE).steps
        for axis in variants.AXES.values()
        for run in axis.values()
    }
    assert len(steps) == 1, "runs that are compared are equally long"


def test_a_variant_differs_from_the_anchor_in_what_it_names_alone():
    anchor = variants.VARIANTS[variants.ANCHOR].settings(load_profile("cpu"))
    for name, variant in variants.VARIANTS.items():
        if variant.full:
            continue
        settings = variant.settings(load_profile("cpu"))
        differs = {
            f.name
            for f in dataclasses.fields(settings)
            if getattr(settings, f.name) != getattr(anchor, f.name)
        }
        assert differs - {"questions_per_step"} == set(variant.changes), name
        completions = settings.questions_per_step * settings.num_generations
        assert completions == anchor.questions_per_step * anchor.num_generations, (
            "equal total completions a step"
        )


def test_no_two_variants_are_the_same_run():
    cpu = load_profile("cpu")
    made_of = [
        (v.reward, tuple(v.settings(cpu).hashed().items()), v.base)
        for v in variants.VARIANTS.values()
    ]
    assert len(set(made_of)) == len(made_of)


def test_main_systems_have_three_seeds_of_full_length():
    cpu = load_profile("cpu")
    for system, reward in TRAINED.items():
        for seed in (1, 2):
            variant = variants.VARIANTS[f"{system}-seed-{seed}"]
            assert variant.reward == reward
            assert variant.settings(cpu) == dataclasses.replace(cpu.grpo, seed=seed)


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
        variants.variants_of(load_profile(profile))
    )


def test_an_unknown_variant_is_one_clear_line(capsys):
    assert variants.main(["l3", "--profile", "smoke"]) == 1
    assert (
        capsys.readouterr()
        .err.strip()
        .startswith("unknown ablation 'l3' of profile 'smoke'; use one of anchor, none, l2")
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
    variants.run(small, "l2")
    return small


def test_a_run_is_trained_recorded_and_read_back(profile):
    records = variants.load_records(profile, ["l2"])
    assert set(records["system"]) == {"l2"} and records["numerals"].notna().any()
    assert set(records["run"]) == {grpo.run_settings(variants.run_folder(profile, "l2"))}
    assert set(variants.load_logs(profile, ["l2"])["run"]) == {"l2"}
    where = variants.where_from(profile).set_index("variant")["results"]
    assert where["l2"] == "made here" and where["kl"] == "not run"


def test_a_finished_run_is_neither_trained_nor_asked_again(profile, monkeypatch):
    folder = variants.run_folder(profile, "l2")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    monkeypatch.setattr(grpo, "build_trainer", lambda *a, **k: pytest.fail("trained again"))
    variants.run(profile, "l2")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")} == before


def test_a_collapse_is_told_and_has_no_records(profile, monkeypatch, capsys):
    def collapse(*_, **__):
        raise grpo.CollapseError("stopped at step 40: accuracy fell")

    monkeypatch.setattr(grpo, "train", collapse)
    assert variants.run(profile, "kl") is False
    assert (
        "kl: stopped at step 40: accuracy fell; there are no records of it"
        in capsys.readouterr().out
    )


def test_a_run_that_was_cut_off_does_not_stand_for_a_whole_one(profile):
    path = variants.run_folder(profile, "l2") / "records" / "l2" / "weave.parquet"
    aside = path.rename(path.with_suffix(".aside"))
    assert variants.results_folder(profile, "l2") is None
    aside.rename(path)
    assert variants.results_folder(profile, "l2") == variants.run_folder(profile, "l2")


def test_without_any_run_the_error_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="run `make ablations`"):
        variants.load_records(PROFILE.replace(root=str(tmp_path)))


def test_seeds_of_the_main_systems_are_found_by_name():
    main = pd.DataFrame({"system": ["L1-SLM", "RLVR-SLM", "Brier-SLM"]})
    extra = pd.DataFrame({"system": ["L1-SLM-seed-1", "L1-SLM-seed-2", "anchor"]})
    found = variants.seeds_of(extra, main)
    assert {system: len(runs) for system, runs in found.items()} == {
        "RLVR-SLM": 1,
        "Brier-SLM": 1,
        "L1-SLM": 3,
    }


def test_a_smaller_slm_is_a_cheaper_one():
    prices = {
        name: each.slm.prompt for name, each in variants.prices_of(load_profile("cpu")).items()
    }
    assert (
        prices["tiny"]
        < prices["small"]
        < prices["llama"]
        == pytest.approx(prices["anchor"], rel=0.05)
    )
    assert prices["honest-0"] == prices["anchor"]


def test_a_setting_that_came_later_does_not_make_finished_runs_strangers():
    """The hash of the main runs is the one they were trained under, before rewards could be normalised apart."""
    settings = load_profile("cpu").grpo
    assert "aggregation" not in settings.hashed()
    assert (
        dataclasses.replace(settings, aggregation="normalize_then_sum").hashed()["aggregation"]
        == "normalize_then_sum"
    )
    assert runs.CALIBRATION == "calibration"
