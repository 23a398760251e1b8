"""Verdicts come from the interval by one rule, and each of the three can be had."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from corea import claims, systems
from tests.fakes import PRICES, fake_records, fake_texts


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
    compared = systems.compare(records.assign(probe=probe), fake_texts(records), PRICES)
    return claims.Evidence(compared.rows, compared.llm, ablations or {}, compared.threshold, PRICES, resamples=60)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return claims.table_claims(evidence(fake_records(questions=40)))


def ece_claim(above: bool) -> claims.Claim:
    return claims.Claim("ECE", "test", "all", lambda e: e.metric(systems.COREA, "all")["ece"] - e.metric("SLM-Verb", "all")["ece"], 0.0, above)


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
    assert list(table) == [*claims.COLUMNS, "bound"]
    assert len(table) >= 15 and (table["source"] == "paper").sum() >= 12 and (table["certainty"] == "counter").sum() >= 8
    assert not table.duplicated(["claim", "scope"]).any()
    assert set(table["verdict"]) <= {"reproduced", "contradicted", "undecided"}


def test_every_verdict_follows_from_its_row(table):
    for row in table.itertuples():
        side, bound = row.bound.split()
        assert claims.verdict(row.low, row.high, float(bound), side == "above") == row.verdict
        assert math.isnan(row.value) or row.low <= row.value <= row.high


def test_claims_about_runs_that_are_not_there_are_undecided(table):
    missing = table[table["n"] == 0]
    assert len(missing) >= 4 and (missing["verdict"] == "undecided").all() and missing["value"].isna().all()


def test_claims_about_ablations_read_their_runs():
    records = fake_records(questions=30)
    slm, ours = (records[records["system"] == name] for name in ("SLM", "L1-SLM"))
    wanted = [claim for claim in claims.CLAIMS if "mixed target" in claim.claim and "AUROC" in claim.claim]
    found = claims.table_claims(evidence(records, {"l2": slm, "mix-0.5": ours}), tuple(wanted))
    assert found["verdict"].tolist() == ["reproduced"] and found["n"].iloc[0] == 120


def test_a_threshold_that_fits_no_set_fails_both_ways():
    """Kept answers are right in .9 on one set and in .3 on another, at a threshold of .6: the smaller miss is .3."""
    records = fake_records(questions=50)
    ours = records["system"] == "L1-SLM"
    number = np.arange(len(records)) % 10
    correct = records["correct"].to_numpy().copy()
    for dataset, share in (("shopping", 9), ("weave", 3), ("shell-game", 6)):
        here = (ours & (records["dataset"] == dataset)).to_numpy()
        correct[here] = number[here] < share
    made = records.assign(correct=correct, confidence=records["confidence"].where(~ours, 1.0))
    e = evidence(made)
    e.threshold = 0.6
    assert e.both_ways("ood")[0] == pytest.approx(0.3, abs=0.05)


def test_the_page_says_what_it_cannot_say():
    assert len(claims.CANNOT_SAY) >= 3 and all(line.endswith((";", ".")) for line in claims.CANNOT_SAY)
