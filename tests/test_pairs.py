"""Points of the map: records drawn from the model itself lie where it says, and each departure shows in its own part."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from corea.analysis import map as model
from corea.analysis import map_figures, pairs
from corea.costs import Price, PriceList
from corea.paper import known_pairs

PRICES = PriceList(Price(0.2, 0.2), Price(1.0, 1.0), "a test")
SLM, LLM, RHO = 0.62, 0.72, 0.8
WHY = ["by_lumps", "by_ranking", "by_llm", "by_costs"]


def world(knows=0.7, knows_llm=0.0, levels=None, dear=0.0, questions=6000, seed=0):
    """Records of both models from latents: margins that correlate, and a confidence that knows the SLM's.

    It may know the LLM's too, have few levels, or be low where answers are long.
    """
    rng = np.random.default_rng(seed)
    margin, own, noise = rng.standard_normal((3, questions))
    llm_margin = RHO * margin + np.sqrt(1 - RHO**2) * own
    rest = np.sqrt(max(0, 1 - knows**2 - knows_llm**2))
    confidence = norm.cdf(knows * margin + knows_llm * own + rest * noise)
    if levels is not None:
        confidence = np.floor(confidence * levels) / levels
    ids = np.arange(questions).astype(str)
    tokens = np.round(100 * (1 + dear * (0.5 - confidence))).astype(int)
    common = {
        "dataset": "drill", "group": "in-domain", "question_id": ids, "sample": 0, "seed": 0, "answer": "", "family": "a",
        "prompt_tokens": rng.integers(5, 20, questions), "decoding": "t1",
    }  # fmt: skip
    slm = pd.DataFrame(common | {"confidence": confidence, "correct": margin > norm.ppf(1 - SLM)})
    llm = pd.DataFrame(common | {"confidence": 0.5, "correct": llm_margin > norm.ppf(1 - LLM)})
    slm, llm = slm.assign(completion_tokens=100), llm.assign(completion_tokens=tokens)
    return slm.assign(system="SLM"), llm.assign(system="LLM")


def point(resamples=20, **changes):
    return pairs.point(*world(**changes), PRICES, 0.72, resamples=resamples)


def test_records_of_the_model_itself_lie_where_it_says():
    found = point()
    assert found["auroc"] == pytest.approx(float(model.auroc_of(0.7, SLM)), abs=0.015)
    assert found["rho"] == pytest.approx(RHO, abs=0.03)
    assert found["gap"] == pytest.approx(LLM - SLM, abs=0.01)
    assert found["price"] == pytest.approx(0.2, abs=0.005)
    assert found["saving"] == pytest.approx(found["predicted"], abs=0.04)
    assert found["low"] <= found["saving"] <= found["high"]
    assert found["llm_auroc"] == pytest.approx(found["llm_auroc_predicted"], abs=0.02)
    assert found["rule_loss"] == pytest.approx(found["rule_loss_predicted"], abs=0.01)
    assert (found["questions"], found["samples"], found["seeds"]) == (6000, 1, 1)


@pytest.mark.parametrize(
    ("changes", "cause", "sign"),
    [
        ({"knows_llm": 0.5}, "by_llm", -1),  # what is kept is what the LLM would have had right too
        ({"dear": 0.6}, "by_costs", -1),  # what is deferred is long
        ({"levels": 2}, "by_lumps", None),
    ],
    ids=["the LLM is known", "the deferred are dear", "two levels"],
)
def test_each_departure_shows_in_its_own_part(changes, cause, sign):
    found, plain = point(**changes), point()
    assert sum(found[name] for name in WHY) == pytest.approx(found["difference"], abs=1e-9)
    assert found["difference"] == pytest.approx(found["saving"] - found["predicted"], abs=1e-9)
    assert abs(found[cause]) > abs(plain[cause]) + 0.02
    others = [abs(found[name]) for name in WHY if name not in (cause, "by_ranking")]
    assert abs(found[cause]) > max(others)
    if sign is not None:
        assert np.sign(found[cause]) == sign


def trained(**changes):
    """Records of L1-SLM with calibration questions, and of two LLMs."""
    slm, llm = world(questions=400, **changes)
    slm = slm.assign(
        system="L1-SLM", mean_probability=slm["confidence"], question=slm["question_id"]
    )
    rows = [
        slm,
        slm.assign(seed=1, correct=~slm["correct"]),
        llm,
        llm.assign(system="LLM-b", correct=True),
    ]
    calibration = [part.assign(group="calibration", dataset="calibration") for part in rows]
    return pd.concat([*rows, *calibration], ignore_index=True)


def test_a_table_has_each_pair_and_system_and_a_coin_by_its_formula():
    records = trained()
    assert pairs.llms_of(records) == {"main": "LLM", "LLM-b": "LLM-b"}
    table = pairs.table_points(records, PRICES, pairs.llms_of(records), resamples=10)
    assert list(table.columns) == pairs.POINT_COLUMNS
    assert set(table["system"]) == {"COREA", "AvgProb", "Router", "Random"} and len(table) == 8
    assert set(table["seeds"]) == {2} and set(table["pair"]) == {"main", "LLM-b"}
    coins = table[table["system"] == "Random"]
    np.testing.assert_allclose(coins["saving"], model.coin_saving(coins["gap"], coins["price"]))
    assert (coins["low"] <= coins["saving"]).all() and (coins["auroc"] == 0.5).all()
    assert (table["kind"] == "mini").all() and (table["decoding"] == "t1").all()
    # Its LLM is always right, so there is no correlation, and no forecast.
    perfect = table[(table["pair"] == "LLM-b") & (table["system"] != "Random")]
    assert perfect[["rho", "predicted"]].isna().all(axis=None)
    figure, _ = map_figures.forecast_figure(table)
    assert len(figure.axes) == 2


def test_the_table_of_pairs_tells_what_lies_outside_the_targets():
    slm, llm = world(questions=2000)
    greedy = slm.assign(decoding="greedy", confidence=slm["correct"].astype(float))
    records = pd.concat([slm, llm, greedy, llm.assign(decoding="greedy")], ignore_index=True)
    targets = {
        "groups": {"in-domain": {"slm": [0.5, 0.7], "rho": [0.9, 1.0]}},
        "every_group": {
            "length_auroc": [None, 0.62],
            "slm_auroc_greedy": [0.52, 0.68],
            "slm_ece": [0.0, None],
        },
    }
    (row,) = pairs.table_pair(records, {"main": "LLM"}, targets, resamples=10).to_dict("records")
    assert row["rho"] == pytest.approx(model.tetrachoric(slm["correct"], llm["correct"]))
    assert row["neither"] == pytest.approx((~slm["correct"] & ~llm["correct"]).mean())
    assert row["slm_auroc_greedy"] == 1 and row["length_auroc"] == pytest.approx(0.5, abs=0.05)
    assert not row["in_targets"] and row["outside"] == "rho, slm_auroc_greedy"
    assert (row["questions"], row["seeds"]) == (2000, 1) and row["gap_low"] <= row["gap"] <= row[
        "gap_high"
    ]
    alone = pairs.table_pair(pd.concat([slm, llm]), {"main": "LLM"}, resamples=10)
    assert alone["slm_auroc_greedy"].isna().all() and alone["in_targets"].all()


def test_known_points_stand_before_those_of_a_run():
    run = pd.DataFrame([{"name": "x", "kind": "mini", "pair": "main", "group": "in-domain"}])
    points = known_pairs.with_known(run, "points")
    assert list(points["kind"].unique()) == ["paper", "real", "mini"]
    assert {"turn-1", "main"} <= set(points["pair"]) and points["source"].notna().all()
    paper = points[points["kind"] == "paper"].set_index("group")
    assert list(paper["saving"]) == [0.215, 0.168, 0.067]
    np.testing.assert_allclose(paper["predicted"], [0.19, 0.12, 0.08], atol=0.006)
    assert paper["estimated"].notna().all()
    measured = points[points["kind"].isin(["real", "mini"]) & (points["source"] != "this run")]
    known = measured[["gap", "auroc", "rho", "saving", "low", "high", "predicted"]]
    assert known.notna().all(axis=None) and (measured["low"] <= measured["high"]).all()
    assert set(known_pairs.with_known(run, "pair")["pair"]) == {"turn-1", "main"}


def test_a_real_pair_is_what_is_tracked(shared):
    folder = shared / "real"
    if not folder.is_dir():
        pytest.skip("../shared/real is not beside this checkout: recorded answers cannot be read")
    names = [f"Qwen2.5-{size}B-Instruct" for size in (7, 32)]
    path = folder / known_pairs.SETS["MATH level 5"]
    answers = known_pairs.read_answers(path, "MATH level 5", names)
    slm, llm = (answers[answers["system"] == name] for name in names)
    assert [rows["correct"].mean() for rows in (slm, llm)] == pytest.approx(
        [0.5146, 0.5895], abs=1e-4
    )
    assert model.tetrachoric(slm["correct"], llm["correct"]) == pytest.approx(0.70, abs=0.005)
    tracked = known_pairs.with_known(pd.DataFrame(), "points").set_index("name")
    row = tracked.loc["Qwen2.5-7B to 32B, MATH level 5"]
    found = pairs.point(
        slm, llm, PriceList(Price(7.0, 7.0), Price(32.0, 32.0), "parameters"), resamples=10
    )
    for name in ("gap", "rho", "auroc", "saving", "predicted", "by_costs"):
        assert row[name] == pytest.approx(found[name], abs=2e-6), name


def test_the_map_is_drawn_whatever_points_there_are():
    points = known_pairs.with_known(pd.DataFrame(), "points")
    figure, drawn = map_figures.savings_map(points)
    assert list(drawn.columns[:6]) == [
        "gap",
        "auroc",
        "rho",
        "price",
        "saving_best",
        "saving_mixed",
    ]
    texts = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert {"paper, ood-math", "turn-1", "Qwen2.5 7-32B", "Llama-3.1 8-70B"} <= texts
    nothing = points.iloc[:0]
    assert map_figures.savings_map(nothing)[0].axes
