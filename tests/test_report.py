"""Tables and figures: their columns and numbers, and the files made of them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from corea.analysis import figures, systems, tables
from corea.paper import output
from tests.fakes import PRICES, fake_records


def fake_log(steps: int = 120) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = []
    for n, run in enumerate(("RLVR-SLM", "Brier-SLM", "L1-SLM")):
        for metric in figures._UNITS:
            if run == "RLVR-SLM" and metric == "confidence reward":
                continue
            level = {"completion tokens": 40, "confidence entropy": 1.5}.get(metric, 0.5)
            for step in range(1, steps + 1):
                drift = level * 0.3 * (n + 1) / 3 * (1 - np.exp(-step / 40))
                rows.append((run, step, metric, level + drift + level * 0.1 * rng.normal()))
    return pd.DataFrame(rows, columns=["run", "step", "metric", "value"])


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    return fake_records()


def table_cascade(records, threshold, **options) -> pd.DataFrame:
    return tables.table_cascade(systems.verbalized(records, PRICES, threshold), **options)


def cost_curves(records, threshold):
    compared = systems.verbalized(records, PRICES, threshold)
    return figures.cost_curves(compared, baseline="SLM-Verb")


# --- tables ---------------------------------------------------------------------------------------


def test_table_slm_has_the_columns_and_rows_the_readme_promises(records):
    table = tables.table_slm(records, resamples=20)
    assert list(table) == tables.SLM_COLUMNS
    assert list(dict.fromkeys(table["system"])) == list(systems.STANDING_ALONE)
    rows = table.loc[table["system"] == "SLM", ["group", "dataset"]].to_numpy().tolist()
    assert rows == [
        ["in-domain", "drill"], ["in-domain", "mean"], ["ood-math", "shopping"],
        ["ood-math", "mean"], ["ood-nonmath", "shell-game"], ["ood-nonmath", "weave"],
        ["ood-nonmath", "mean"],
    ]  # fmt: skip
    for name in ("pass1", "ece", "auroc", "brier"):
        assert (table[f"{name}_low"] <= table[name]).all(), name
        assert (table[name] <= table[f"{name}_high"]).all(), name


def test_table_slm_agrees_with_plain_pandas(records):
    table = tables.table_slm(records, resamples=0).set_index(["system", "dataset"])
    rows = records[(records["system"] == "L1-SLM") & (records["dataset"] == "weave")]
    found = table.loc[("L1-SLM", "weave")]
    stated = rows.dropna(subset="confidence")
    assert found["pass1"] == pytest.approx(rows["correct"].mean())
    assert found["brier"] == pytest.approx(((stated["confidence"] - stated["correct"]) ** 2).mean())
    assert found["parse_rate"] == pytest.approx(rows["confidence"].notna().mean())
    assert found["levels"] == stated["confidence"].nunique()
    assert found["completion_tokens"] == pytest.approx(rows["completion_tokens"].mean())
    assert (found["questions"], found["samples"], found["seeds"]) == (40, 4, 1)


def test_a_mean_row_weighs_datasets_alike_whatever_their_size(records):
    small = (records["dataset"] == "weave") & (records["question_id"] > "weave/3")
    table = tables.table_slm(records[~small], resamples=0)
    table = table[(table["system"] == "SLM") & (table["group"] == "ood-nonmath")].set_index(
        "dataset"
    )
    sets = table.loc[["shell-game", "weave"]]
    assert sets["questions"].nunique() == 2
    for name in ("pass1", "ece", "auroc", "brier", "aurc", "completion_tokens"):
        assert table.loc["mean", name] == pytest.approx(sets[name].mean()), name
    assert table.loc["mean", "questions"] == sets["questions"].sum()


def test_tables_do_not_depend_on_row_order_or_the_calibration_split(records):
    shuffled = records[records["group"] != "calibration"].sample(frac=1, random_state=0)
    one = tables.table_slm(records, resamples=20)
    pd.testing.assert_frame_equal(one, tables.table_slm(shuffled, resamples=20))
    one = table_cascade(records, 0.6, resamples=20)
    pd.testing.assert_frame_equal(one, table_cascade(shuffled, 0.6, resamples=20), rtol=1e-9)


def test_table_cascade_agrees_with_plain_pandas(records):
    table = table_cascade(records, 0.6, resamples=20)
    assert list(table) == ["rule", *tables.CASCADE_COLUMNS]
    sides = [
        records[(records["system"] == s) & (records["dataset"] == "drill")]
        for s in ("L1-SLM", "LLM")
    ]
    both = sides[0].merge(sides[1], on=["question_id", "sample"], suffixes=("", "_llm"))
    kept = both["confidence"] >= 0.6
    right = both["correct"].where(kept, both["correct_llm"]).mean()
    own = 0.2 * (both["prompt_tokens"] + both["completion_tokens"])
    llm = both["prompt_tokens_llm"] + both["completion_tokens_llm"]
    found = table.set_index(["system", "dataset"]).loc[("L1-SLM-Verb", "drill")]
    assert found["pass1"] == pytest.approx(right)
    assert found["pass1_drop"] == pytest.approx(both["correct_llm"].mean() - right)
    assert found["llm_share"] == pytest.approx(1 - kept.mean())
    cost = (own + llm.where(~kept, 0)).sum()
    assert found["cost_reduction"] == pytest.approx(1 - cost / llm.sum())
    assert found["cost"] == pytest.approx(1000 * cost / 1e6 / len(both))


def test_the_llm_alone_is_the_reference_row(records):
    alone = tables.table_slm(records, resamples=20)
    alone = alone[alone["system"] == "LLM"].reset_index(drop=True)
    rows = table_cascade(records, 0.6, resamples=20)
    rows = rows[rows["system"] == "LLM"].reset_index(drop=True)
    assert rows["threshold"].isna().all() and (rows["llm_share"] == 1).all()
    zero = [name for name in rows if name.startswith(("pass1_drop", "cost_reduction"))]
    assert len(zero) == 6 and (rows[zero] == 0).all(axis=None)
    np.testing.assert_allclose(rows["pass1"], alone["pass1"])


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (lambda r: r["system"] != "LLM", "no records of system 'LLM'"),
        (lambda r: r["group"] == "calibration", "no records to report"),
        (lambda r: (r["system"] != "LLM") | (r["sample"] > 0), "llm records lack"),
    ],
)
def test_what_table_cascade_cannot_compare_is_one_clear_line(records, keep, message):
    with pytest.raises(ValueError, match=message) as caught:
        table_cascade(records[keep(records)], 0.5, resamples=5)
    assert "\n" not in str(caught.value)


# --- figures --------------------------------------------------------------------------------------

FIGURES = {
    "reliability": lambda r: figures.reliability(r),
    "cost_curves": lambda r: cost_curves(r, 0.65),
    "confidence_histograms": lambda r: figures.confidence_histograms(r, ("SLM", "L1-SLM")),
    "training_curves": lambda r: figures.training_curves(fake_log(30)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_saved_whole_and_alike_twice(name, records, tmp_path):
    source = {"commit": "unknown", "seed": 0}
    for folder in ("one", "two"):
        figure, drawn = FIGURES[name](records)
        output.save_figure(figure, tmp_path / folder / name, drawn, source)
    written = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert written == [f"{name}.{kind}" for kind in ("csv", "json", "pdf", "png")]
    for file in written:
        both = [(tmp_path / folder / file).read_bytes() for folder in ("one", "two")]
        assert both[0] == both[1], file
    assert len(pd.read_csv(tmp_path / "one" / f"{name}.csv")) == len(drawn)
    assert json.loads((tmp_path / "one" / f"{name}.json").read_text()) == source
    for axes in figure.axes:
        labels = [axes.get_xlabel(), axes.get_ylabel()]
        outer = axes.get_subplotspec()
        assert labels[0] or not outer.is_last_row(), "an axis without a name"
        assert labels[1] or not outer.is_first_col(), "an axis without a name"


def test_the_marked_points_are_the_rows_of_table_cascade(records):
    _, drawn = cost_curves(records, 0.65)
    table = table_cascade(records, 0.65, resamples=0)
    table = table[(table["dataset"] == "mean") & (table["system"] != "LLM")]
    marked = drawn[drawn["marked"].eq(True)].rename(columns={"series": "system"})
    both = table.merge(marked, on=["system", "group"], validate="1:1")
    assert len(both) == len(table) == 12
    np.testing.assert_allclose(both["cost_y"], 1 - both["cost_reduction"])
    np.testing.assert_allclose(both["pass1_y"], both["pass1_x"])


def test_histograms_hold_every_answer_once(records):
    _, drawn = figures.confidence_histograms(records)
    shares = drawn.groupby(["system", "group"])[["right", "wrong"]].sum()
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    accuracy = records[records["group"] == "ood-math"].groupby("system")["correct"].mean()
    assert shares.loc[("SLM", "ood-math"), "right"] == pytest.approx(accuracy["SLM"])


def test_systems_that_state_nothing_and_single_sets_can_be_drawn(records):
    """The smoke profile has few rows: some bins, panels or confidences may be missing altogether."""
    few = records[(records["dataset"] == "weave") & (records["sample"] == 0)]
    few = few.assign(confidence=few["confidence"].where(few["system"] != "SLM"))
    _, drawn = figures.reliability(few)
    assert set(drawn["system"]) == {"L1-SLM"}
    assert len(cost_curves(few, 0.65)[0].axes) == 1
    _, drawn = figures.confidence_histograms(few, ("SLM",))
    assert drawn["level"].isna().all() and drawn[["right", "wrong"]].sum(axis=None) == 1
    table = tables.table_slm(few, resamples=5).set_index(["system", "dataset"])
    assert (
        np.isnan(table.loc[("SLM", "mean"), "ece"])
        and table.loc[("SLM", "mean"), "parse_rate"] == 0
    )


def test_a_log_of_unknown_metrics_is_refused():
    log = pd.DataFrame({"run": ["x"], "step": [1], "metric": ["loss"], "value": [1.0]})
    with pytest.raises(ValueError, match="none of the metrics accuracy"):
        figures.training_curves(log)


def test_the_style_does_not_leak(records):
    import matplotlib

    before = dict(matplotlib.rcParams)
    figures.training_curves(fake_log(5))
    assert dict(matplotlib.rcParams) == before


# --- files ----------------------------------------------------------------------------------------


def test_save_table_writes_numbers_for_machines_and_text_for_people(tmp_path):
    frame = pd.DataFrame({
        "system": ["SLM", "LLM_1"], "questions": [40, 40], "pass1": [1 / 3, -1e-9],
        "pass1_low": [0.25, np.nan], "pass1_high": [0.4, np.nan], "levels": [7.0, 10.5],
    })  # fmt: skip
    output.save_table(frame, tmp_path / "t", {"seed": 0})
    assert (tmp_path / "t.csv").read_bytes() == (
        b"system,questions,pass1,pass1_low,pass1_high,levels\nSLM,40,0.333333,0.25,0.4,7.0\nLLM_1,40,0.0,,,10.5\n"
    )
    assert (tmp_path / "t.md").read_text().splitlines() == [
        "| system | questions | Pass@1 | levels |",
        "| --- | ---: | ---: | ---: |",
        "| SLM | 40 | 0.333 [0.250, 0.400] | 7.0 |",
        "| LLM_1 | 40 | 0.000 | 10.5 |",
    ]
    tex = (tmp_path / "t.tex").read_text()
    assert r"\toprule" in tex and r"LLM\_1 & 40 & 0.000 & 10.5 \\" in tex
    assert tex.count(r"\midrule") == 2, "one under the heading, one between systems"
    assert json.loads((tmp_path / "t.json").read_text()) == {"seed": 0}


def test_provenance_names_what_was_read_without_naming_the_machine(tmp_path):
    path = tmp_path / "SLM" / "drill.parquet"
    path.parent.mkdir()
    path.write_bytes(b"abc")
    found = output.provenance("smoke", 3, {"resamples": 50}, [path])
    assert found["records"] == {
        "SLM/drill.parquet": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    }
    assert (found["profile"], found["seed"], len(found["settings"])) == ("smoke", 3, 12)
    assert {"corea", "python", "pandas", "matplotlib"} <= set(found["versions"])
    assert str(tmp_path) not in json.dumps(found)
    assert found == output.provenance("smoke", 3, {"resamples": 50}, [path])
