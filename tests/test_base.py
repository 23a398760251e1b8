"""The shipped base models and the tracked reference run: what the package says of them is measured here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest

from corea import evaluation, metrics
from corea.analysis import systems, tables
from corea.engines import loading as engines
from corea.grader import Grader
from corea.grpo import fingerprint
from corea.mini import pretrain
from corea.paper import claims, output, runs, variants
from corea.paper.profiles import load_profile
from corea.questions import base, generated  # fmt: skip
from corea.questions.load import load_questions

PROFILE = load_profile("cpu")
REFERENCE = PROFILE.reference()


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    return runs.load_records(REFERENCE)


@pytest.mark.parametrize("spec", [pretrain.SLM, pretrain.LLM], ids=lambda spec: spec.name)
def test_the_shipped_weights_are_what_their_recipe_made(spec):
    """The manifest names the recipe in the code and the hash of the file; a retraining is `make base`."""
    folder = Path(PROFILE.slm).parent / spec.name
    manifest = pretrain.read_manifest(folder)
    assert manifest["recipe"] == json.loads(json.dumps(dataclasses.asdict(spec)))
    assert manifest["sha256"] == fingerprint(folder)
    assert manifest["seconds"] > 0
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]
    assert sum(p.numel() for p in engines.load_model(folder).parameters()) == manifest["parameters"]


def test_base_weights_are_small():
    assert sum(path.stat().st_size for path in Path(PROFILE.slm).parent.rglob("*")) < 40 * 2**20


def test_the_base_slm_looks_like_an_untrained_slm(records):
    """Overconfident, with weak self-knowledge, well formed, right on half: in domain, from the reference records."""
    part = records[(records["system"] == "SLM") & (records["group"] == "in-domain")]
    found = metrics.evaluate(part["question_id"], part["correct"], part["confidence"], resamples=0)
    assert found["ece"].value >= 0.25
    assert part["confidence"].mean() > part["correct"].mean(), "overconfident, not underconfident"
    assert 0.52 <= found["auroc"].value <= 0.68
    assert 0.35 <= found["pass1"].value <= 0.65
    assert part["well_formed"].mean() >= 0.95


def test_the_base_slm_has_room_to_grow(records):
    """pass@8 at least 15 points over Pass@1, on calibration questions."""
    questions = load_questions("drill", "calibration", size=176)
    engine = runs.engine_for(PROFILE, "SLM")
    with Grader() as grader:
        rows = evaluation.answer_records(engine, questions, grader, samples=8)
    by_question = rows.groupby("question_id")["correct"]
    assert by_question.max().mean() - by_question.mean().mean() >= 0.15


def test_the_llm_is_better_on_every_group_and_not_perfect(records):
    pass1 = (
        records[records["group"] != runs.CALIBRATION]
        .groupby(["system", "group", "dataset"])["correct"]
        .mean()
    )
    means = pass1.groupby(["system", "group"]).mean()
    assert (means["LLM"] - means["SLM"] >= 0.15).all(), means
    assert (means["LLM"] <= 0.95).all(), means


FLAT = {
    "next-term",
    "pointer-chase",
}  # near 0 on every rung: no look-up in context was learnt; trained on, not reported alone


@pytest.mark.parametrize("family", [name for name in generated.FAMILIES if name not in FLAT])
def test_the_slm_climbs_from_near_one_to_near_zero(family, records):
    rungs = (
        records[(records["system"] == "SLM") & (records["family"] == family)]
        .groupby("level")["correct"]
        .mean()
    )
    assert rungs.max() >= 0.85 and rungs.min() <= 0.35, rungs


def test_the_flat_families_are_named():
    assert not FLAT & set(base.test_datasets())
    assert set(generated.IN_DOMAIN) > FLAT


def test_the_tracked_tables_are_those_of_the_tracked_records(records, tmp_path):
    """The numbers of `figures/cpu/` come out of the reference records again, to the byte: also the page of claims."""
    options = {"resamples": PROFILE.resamples, "seed": PROFILE.seed}
    compared = systems.compare(records, runs.prices_of(PROFILE))
    by_name = dict(
        tuple(runs.load_records(REFERENCE, variants.ablations_of(REFERENCE)).groupby("system"))
    )
    evidence = claims.Evidence(compared, by_name, **options)
    stated = systems.verbalized(records, compared.prices)
    made = {
        "table_slm": tables.table_slm(records, **options),
        "table_verbalized": tables.table_cascade(stated, **options).drop(columns="rule"),
        "table_candidates": compared.chosen,
        "claims": claims.table_claims(evidence)[claims.COLUMNS],
    }
    for name, table in made.items():
        output.save_table(table, tmp_path / name, {})
        assert (tmp_path / f"{name}.csv").read_bytes() == (
            PROFILE.figures / f"{name}.csv"
        ).read_bytes(), name


def test_every_ablation_is_in_the_reference_run():
    assert (runs.where_from(REFERENCE)["results"] != "not run").all()
    tracked = sum(path.stat().st_size for path in Path(REFERENCE.data).rglob("*") if path.is_file())
    assert tracked < 30 * 2**20


def test_records_name_what_they_came_from(records):
    assert set(records["profile"]) == {"cpu"}
    assert records["commit"].str.fullmatch("[0-9a-f]{40}").all()
    made_by = records.groupby("system")["run"].unique().map(list)
    assert made_by["SLM"] == ["base"] and made_by["LLM"] == ["base"]
    for system in ("L1-SLM", "RLVR-SLM", "Brier-SLM"):
        settings = json.loads((runs.run_folder(REFERENCE, system) / "complete.json").read_text())[
            "settings"
        ]
        assert made_by[system] == [settings]
