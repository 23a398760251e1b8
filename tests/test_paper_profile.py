"""The paper's profile in small: its question sets and its notebooks, with mini models and made-up questions.

What is replaced is size, and the system turn, which mini models do not know: the notebooks' own cells run, in the order of `make paper`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import datasets
import matplotlib
import nbformat
import pandas as pd
import pytest

from corea.analysis import sources
from corea.paper import profiles, runs, variants
from corea.questions import base, hub
from corea.questions.load import load_questions
from corea.support.hardware import Compute
from corea.support.models import ARCHITECTURES, architecture_of
from tests.test_hubsets import ROWS, deepmath_row, gsm8k_row, math500_row, olympiad_row, save

ROOT = Path(__file__).resolve().parent.parent
PAPER = profiles.PROFILES["paper"]
DRAWN = ("06_calibration", "07_cascade", "08_confidence_sources", "10_ablations", "11_claims")


def made_up() -> dict[str, list[dict]]:
    """Rows of every set; those of the math sets are what mini models can answer now and then."""
    mini = load_questions("drill", "test", size=1340)
    row = {
        "deepmath": deepmath_row,
        "math500": math500_row,
        "gsm8k": gsm8k_row,
        "olympiadbench": olympiad_row,
    }
    gold = {"gsm8k": lambda q: f"so\n#### {q.gold}", "olympiadbench": lambda q: [q.gold]}
    parts = {
        "deepmath": mini[40:],
        "math500": mini[:12],
        "gsm8k": mini[12:24],
        "olympiadbench": mini[24:36],
    }
    return ROWS | {
        name: [row[name](q.text, gold.get(name, lambda q: q.gold)(q)) for q in part]
        for name, part in parts.items()
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The profile `paper` with mini models, few questions and short runs; its sets are made-up files of the hub's columns."""
    root = tmp_path_factory.mktemp("root")
    grpo = dataclasses.replace(
        PAPER.grpo,
        steps=2,
        questions_per_step=2,
        num_generations=2,
        max_completion_length=24,
        learning_rate=1e-4,
    )
    changes = {
        "slm": "data/base/slm", "llm": "data/base/llm", "grpo": grpo, "train_size": 40, "calibration_size": 60, "instruction": None, "in_domain_size": 12,
        "ood_size": 10, "samples": 2, "resamples": 20, "max_new_tokens": 32, "compute": Compute(), "root": str(root),
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(profiles.PROFILES, "paper", PAPER.replace(**changes))
        patch.setenv("COREA_HUB", str(root / "hub"))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
        for name, rows in made_up().items():
            patch.setitem(hub.SETS, name, dataclasses.replace(hub.SETS[name], rows=len(rows)))
            save(root / "hub" / name / hub.SETS[name].files.replace("*", "0"), rows)
        patch.setitem(sources.PROBE_RECIPE, "epochs", 5)
        matplotlib.use("Agg")
        yield profiles.load_profile("paper")
        hub._read.cache_clear()


def run_notebook(name: str, **parameters) -> dict:
    """The code cells of a notebook, one after the other, with parameters in the place of its own."""
    variables: dict = {"display": lambda *shown: None}
    for cell in nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            source = cell.source.replace("%matplotlib inline", "")
            exec(compile(source, name, "exec"), variables)
            if "parameters" in cell.metadata.get("tags", ()):
                assert set(parameters) <= set(variables)
                variables |= parameters
    return variables


@pytest.fixture(scope="module")
def whole(small):
    """Trained and recorded as `make paper` does."""
    for system in variants.TRAINED:
        run_notebook("04_train", profile="paper", system=system)
    for system in variants.SYSTEMS:
        run_notebook("05_generate", profile="paper", system=system)
    for variant in variants.IN_PAPER:
        run_notebook("09_ablate", profile="paper", variant=variant)
    return small


def test_the_trained_questions_stand_in_no_test_set(whole):
    trained = {hub.normalised(q.text) for q in runs.training_questions(whole)}
    assert len(trained) == 40
    for dataset in base.test_datasets("paper"):
        assert not trained & {
            hub.normalised(q.text) for q in runs.evaluation_questions(whole, dataset)
        }


def test_records_hold_every_set_of_the_paper_in_its_group(whole):
    records = runs.load_records(whole)
    assert (records["profile"] == "paper").all()
    found = records.groupby("group")["dataset"].unique().map(set).to_dict()
    assert found.pop("calibration") == {"calibration"}
    assert found == {group: set(names) for group, names in base.SUITES["paper"].items()}
    counts = (
        records[records["group"] != "calibration"]
        .groupby(["system", "dataset"])["question_id"]
        .nunique()
    )
    assert counts.between(10, 12).all()


def test_every_table_and_figure_is_drawn_from_them_and_nothing_else(whole, monkeypatch):
    """The hub, or the files in its place, is not read again: records hold their questions."""
    monkeypatch.setattr(hub, "read", lambda name: pytest.fail(f"{name} was read to draw"))
    for name in DRAWN:
        run_notebook(name, profile="paper")
    made = {path.name for path in whole.figures.iterdir()}
    drawn = {path.name for path in (ROOT / "figures" / "cpu").iterdir()}
    assert made == drawn
    claims = pd.read_csv(whole.figures / "claims.csv")
    assert (
        set(claims["verdict"]) <= {"reproduced", "contradicted", "undecided"} and len(claims) > 15
    )


def test_a_profile_of_the_hub_is_what_it_says():
    for profile in (PAPER, profiles.PROFILES["single-gpu"]):
        assert {profile.slm, profile.llm} <= set(ARCHITECTURES)
        assert architecture_of(profile.slm).parameters < architecture_of(profile.llm).parameters
        size, passes = profile.compute.batch(
            profile.grpo.questions_per_step * profile.grpo.num_generations
        )
        assert (
            size * passes * profile.compute.gpus
            == profile.grpo.questions_per_step * profile.grpo.num_generations
        )
        assert profile.instruction and profile.suite == "paper"
    assert PAPER.compute.gpus_for(PAPER.llm) == 2 and PAPER.compute.gpus_for(PAPER.slm) == 1
