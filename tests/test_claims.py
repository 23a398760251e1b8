"""Verdicts come from the interval by one rule, and each of the three can be had."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from corea.analysis import systems
from corea.paper import claims, variants
from corea.paper.profiles import ROOT
from tests.fakes import PRICES, fake_records


@pytest.mark.parametrize(
    ("low", "high", "bound", "above", "expected"),
    [
        (0.1, 0.3, 0, True, "reproduced"),
        (-0.3, -0.1, 0, True, "contradicted"),
        (-0.1, 0.3, 0, True, "undecided"),
        (0.0, 0.3, 0, True, "undecided"),  # it touches the bound
        (0.0, 0.0, 0, True, "undecided"),
        (0.01, 0.015, 0.02, False, "reproduced"),
        (0.03, 0.05, 0.02, False, "contradicted"),
        (0.01, 0.05, 0.02, False, "undecided"),
        (math.nan, 0.5, 0, True, "undecided"),
        (math.nan, math.nan, 0, False, "undecided"),
    ],
)
def test_the_rule(low, high, bound, above, expected):
    assert claims.verdict(low, high, bound, above) == expected


def evidence(records: pd.DataFrame, ablations: dict | None = None) -> claims.Evidence:
    probe = records["answer_probability"].where(records["system"] != "LLM")
    compared = systems.compare(records.assign(probe=probe), PRICES)
    return claims.Evidence(compared, ablations or {}, resamples=60)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return claims.table_claims(evidence(fake_records(questions=40)))


def ece_claim(above: bool) -> claims.Claim:
    compared = (systems.COREA, "SLM-Verb")
    return claims.Claim("ECE", "test", "all", "difference", "ece", compared, above, trainings=1)


def test_made_up_records_give_each_verdict():
    """L1-SLM's confidence knows the truth better than the SLM's; that it does not is refuted; a copy of the SLM is no better."""
    records = fake_records(questions=60)
    is_ours = records["system"] == "L1-SLM"
    good = claims.table_claims(evidence(records), (ece_claim(above=False),))
    assert good["verdict"].tolist() == ["reproduced"]
    swapped = records.assign(system=records["system"].replace({"L1-SLM": "SLM", "SLM": "L1-SLM"}))
    bad = claims.table_claims(evidence(swapped), (ece_claim(above=False),))
    assert bad["verdict"].tolist() == ["contradicted"]
    slm = records[records["system"] == "SLM"]
    copied = pd.concat([records[~is_ours], slm.assign(system="L1-SLM")], ignore_index=True)
    same = claims.table_claims(evidence(copied), (ece_claim(above=False), ece_claim(above=True)))
    assert same["verdict"].tolist() == ["undecided", "undecided"] and (same["value"] == 0).all()


def test_the_table_has_its_columns_and_at_least_fifteen_claims(table):
    assert list(table) == [*claims.COLUMNS, "bound", "seed_sd"]
    assert (
        len(table) >= 15
        and (table["source"] == "paper").sum() >= 20
        and (table["certainty"] == "counter").sum() >= 8
    )
    assert not table.duplicated(["claim", "scope"]).any()
    assert set(table["verdict"]) <= {"reproduced", "contradicted", "undecided"}


def test_every_verdict_follows_from_its_row(table):
    for row in table.itertuples():
        side, bound = row.bound.split()
        assert claims.verdict(row.low, row.high, float(bound), side == "above") == row.verdict
        assert math.isnan(row.value) or row.low <= row.value <= row.high


def test_claims_about_runs_that_are_not_there_are_undecided(table):
    missing = table[table["n"] == 0]
    assert (
        len(missing) >= 4
        and (missing["verdict"] == "undecided").all()
        and missing["value"].isna().all()
    )


def test_claims_about_ablations_read_their_runs():
    records = fake_records(questions=30)
    slm, ours = (records[records["system"] == name] for name in ("SLM", "L1-SLM"))
    wanted = [
        claim
        for claim in claims.read_claims()
        if "mixed target" in claim.claim and "AUROC" in claim.claim
    ]
    found = claims.table_claims(evidence(records, {"l2": slm, "mix-0.5": ours}), wanted)
    assert found["verdict"].tolist() == ["reproduced"] and found["n"].iloc[0] == 120


def with_accuracy(shares: dict[str, int], kept: bool) -> claims.Evidence:
    """L1-SLM right in so many tenths of each OOD set, all of its answers kept, or all deferred, at a threshold of .6."""
    records = fake_records(questions=50)
    ours = records["system"] == "L1-SLM"
    number, correct = np.arange(len(records)) % 10, records["correct"].to_numpy().copy()
    for dataset, share in shares.items():
        here = (ours & (records["dataset"] == dataset)).to_numpy()
        correct[here] = number[here] < share
    confidence = np.where(np.arange(len(records)) % 2, 1.0, 0.99) if kept else 0.1
    made = records.assign(
        correct=correct, confidence=records["confidence"].where(~ours, confidence)
    )
    found = evidence(made)
    found.threshold = 0.6
    return found


def test_a_threshold_misses_where_kept_answers_are_worse_than_it_says():
    e = with_accuracy({"shopping": 9, "weave": 3, "shell-game": 6}, kept=True)
    assert e.misses("ood", kept=True).value == pytest.approx(0.3, abs=0.05)
    assert e.misses("ood", kept=True).low > 0
    assert np.isnan(e.misses("ood", kept=False).value), "nothing was deferred"


def test_a_threshold_misses_where_deferred_answers_are_better_than_it_says():
    e = with_accuracy({"shopping": 9, "weave": 3, "shell-game": 6}, kept=False)
    assert e.misses("ood", kept=False).value == pytest.approx(0.3, abs=0.05)
    assert e.misses("ood", kept=False).low > 0


def test_noise_alone_is_no_miss():
    """Accuracy at the threshold on every set: the largest of three noisy misses must not count as one."""
    e = with_accuracy({"shopping": 6, "weave": 6, "shell-game": 6}, kept=True)
    found = e.misses("ood", kept=True)
    assert claims.verdict(found.low, found.high, 0, True) != "reproduced"


def test_unstated_confidences_do_not_break_the_pairing():
    """Dropping a question's confidences in one run leaves the draws of every other question the same."""
    records = fake_records(questions=30)
    ours = records[records["system"] == "L1-SLM"]
    silent = ours.assign(confidence=ours["confidence"].where(ours["question_id"] != "drill/3"))
    e = evidence(records, {"one": ours, "other": silent})
    difference = e.draws("over", "one", "in-domain") - e.draws("over", "other", "in-domain")
    assert np.abs(difference).max() < 0.05 and np.ptp(difference) < 0.05


def test_ranking_within_a_question():
    rows = pd.DataFrame({
        "dataset": "d", "question_id": list("aabbccdd"), "correct": [True, False, True, False, True, True, False, True],
        "confidence": [0.9, 0.1, 0.1, 0.9, 0.5, 0.1, 0.5, 0.5],
    })  # fmt: skip
    found = claims._ranking_within(rows, np.full((1, 8), 1 / 8))
    assert found[0] == pytest.approx((1 + 0 + 0.5) / 3), (
        "one ranked well, one badly, one tied; c has no wrong answer"
    )


def test_seeds_widen_the_interval_of_a_claim_about_a_training():
    records = fake_records(questions=30)
    ours = records[records["system"] == "L1-SLM"]
    shifted = ours.assign(confidence=(ours["confidence"] * 0.6))
    claim = next(
        c
        for c in claims.read_claims()
        if c.claim.startswith("L1-SLM is better calibrated than the SLM")
    )
    alone = claims.table_claims(evidence(records), (claim,)).iloc[0]
    seeded = claims.table_claims(evidence(records, {"L1-SLM-seed-1": shifted}), (claim,)).iloc[0]
    assert np.isnan(alone["seed_sd"]) and seeded["seed_sd"] > 0
    assert (
        seeded["low"] < alone["low"]
        and seeded["high"] > alone["high"]
        and seeded["value"] == alone["value"]
    )


def test_the_page_says_what_it_cannot_say():
    notebook = json.loads((ROOT / "notebooks" / "11_claims.ipynb").read_text())
    texts = ["".join(cell["source"]) for cell in notebook["cells"]]
    page = next(text for text in texts if text.startswith("## What the mini world cannot say"))
    points = page.split("\n- ")[1:]
    assert len(points) >= 3 and all(point.strip().endswith((";", ".")) for point in points)


HEAD = "claim,source,scope,kind,measure,systems,bound,trainings,paper_value,certainty\n"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("everywhere,value,ece,l2,above 0,1,,firm", "scope='everywhere'; use one of in-domain"),
        ("all,ratio,ece,anchor; l2,above 0,1,,firm", "kind='ratio'; use one of value, difference"),
        ("all,value,ecce,l2,above 0,1,,firm", "measure='ecce'; use one of pass1, ece"),
        ("all,largest miss,ece,l2,above 0,1,,firm", "measure='ece'; use one of kept, deferred"),
        ("all,difference,ece,l2,above 0,1,,firm", "1 systems; a difference is of 2"),
        ("all,value,ece,l2 @ nowhere,above 0,1,,firm", "systems are in 'nowhere'; use one of"),
        ("all,value,ece,l2,over 0,1,,firm", "bound='over 0'; use 'above' or 'below'"),
        ("all,value,ece,l2,above much,1,,firm", "bound='above much'; use 'above' or 'below'"),
        ("all,value,ece,l2,above 0,one,,firm", "trainings='one'; use a whole number"),
        ("all,value,ece,l2,above 0,1,,surely", "certainty='surely'; use one of firm"),
    ],
)
def test_a_wrong_row_is_one_clear_line(row, said, tmp_path):
    path = tmp_path / "claims.csv"
    path.write_text(f"{HEAD}A,paper,all,difference,ece,anchor; l2,above 0,1,,firm\nB,paper,{row}\n")
    with pytest.raises(ValueError, match="line 3: ") as caught:
        claims.read_claims(path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_column_that_is_missing_is_named(tmp_path):
    path = tmp_path / "claims.csv"
    path.write_text(f"{HEAD.replace('scope,', '')}A,paper,value,ece,l2,above 0,1,,firm\n")
    with pytest.raises(ValueError, match=r"line 2: .*'scope'"):
        claims.read_claims(path)


def test_each_claim_names_runs_that_exist():
    """A misspelt run would leave its claim undecided for ever."""
    candidates = {system.name for system in systems.CANDIDATES}
    ours = {system.name for system in (*systems.PAPER, *systems.OURS)}
    for claim in claims.read_claims():
        names = {name for name, _ in claim.terms} - {"honest-0 base"}
        assert names <= candidates | ours | set(variants.RUNS), claim.claim
