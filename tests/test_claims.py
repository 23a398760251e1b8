"""Verdicts come from the interval by one rule, and each of the three can be had."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from corea.analysis import figures, systems
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


def evidence(records: pd.DataFrame, **runs: pd.DataFrame) -> claims.Evidence:
    """Evidence of the records, and of runs that answer as some of them do."""
    probe = records["answer_probability"].where(records["system"] != "LLM")
    named = [rows.assign(system=name.replace("_", " ")) for name, rows in runs.items()]
    together = pd.concat([records.assign(probe=probe), *named], ignore_index=True)
    return claims.Evidence(together, PRICES, resamples=60)


def claim(measure: str, compared: str, bound: str, **changes) -> claims.Claim:
    kind = ("value", "difference")[compared.count(";")]
    made = claims.Claim("it is so", "test", "ours", "all", kind, measure, compared, bound, "", "no")
    return replace(made, **changes)


def judged(records: pd.DataFrame, *wanted: claims.Claim, **runs: pd.DataFrame) -> pd.DataFrame:
    return claims.table_claims([("t0.7", evidence(records, **runs))], wanted)


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    return fake_records(questions=40)


@pytest.fixture(scope="module")
def table(records) -> pd.DataFrame:
    return claims.table_claims([("t0.7", evidence(records)), ("greedy", evidence(records))])


ECE = claim("ece", "L1-SLM-Verb; SLM-Verb", "below 0")
CHEAPER = claim("cascade cost_reduction", "L1-SLM-Verb", "above -0.5")  # it cannot fail


def test_made_up_records_give_each_verdict():
    """L1-SLM's confidence knows the truth better than the SLM's; that it does not is refuted; a copy of the SLM is no better."""
    records = fake_records(questions=60)
    assert judged(records, ECE)["verdict"].tolist() == ["reproduced"]
    swapped = records.assign(system=records["system"].replace({"L1-SLM": "SLM", "SLM": "L1-SLM"}))
    assert judged(swapped, ECE)["verdict"].tolist() == ["contradicted"]
    slm = records[records["system"] == "SLM"].assign(system="L1-SLM")
    copied = pd.concat([records[records["system"] != "L1-SLM"], slm], ignore_index=True)
    same = judged(copied, ECE, replace(ECE, bound="above 0"))
    assert same["verdict"].tolist() == ["undecided", "undecided"] and (same["value"] == 0).all()


# --- placebos ---


def test_a_coin_passes_a_vacuous_claim_and_fails_a_real_one(records):
    ranks = claim("auroc", "L1-SLM-Verb; SLM-Verb", "above 0")
    found = judged(records, CHEAPER, ranks)
    assert found["verdict"].tolist() == ["reproduced"] * 2
    assert found["placebo_coin"].tolist()[0] == "reproduced", (
        "it would take half as much again to fail"
    )
    assert found["placebo_coin"].tolist()[1] == "contradicted", "a coin ranks by chance"
    assert found["informative"].tolist() == ["no", "yes"]


def test_the_untrained_slm_stands_in_for_what_was_trained(records):
    """Its verdict is that of the same claim about the SLM itself."""
    for measure, bound in (("auroc", "above 0.5"), ("ece", "below 0.2"), ("auroc", "above 0.9")):
        ours, slm = judged(
            records, claim(measure, "L1-SLM-Verb", bound), claim(measure, "SLM-Verb", bound)
        )[["placebo_base", "verdict"]].itertuples(index=False)
        assert ours.placebo_base == slm.verdict and slm.placebo_base == ""
    own = records[records["system"] == "Brier-SLM"]
    other = claim("auroc", "tiny", "above 0.5", claim="a run with a base of its own")
    found = judged(records, other, tiny=own, tiny_base=own.assign(confidence=0.5))
    assert found["placebo_base"].tolist() == ["undecided"], "a constant of .5 has AUROC .5"


def test_a_placebo_that_has_nothing_to_say_is_blank(records):
    """A coin of Pass@1 and of how often 0 or 1 is stated, the untrained SLM of a source."""
    blind = [claim("pass1", "L1-SLM-Verb", "above 0"), claim("ends", "L1-SLM-Verb", "above 0")]
    of_source = claim("auroc", "L1-SLM-AvgProb; L1-SLM-Verb", "above 0")
    found = judged(records, *blind, of_source)
    assert found["placebo_coin"].eq("").tolist() == [True, True, False]
    assert found["placebo_base"].eq("").tolist() == [False, False, True]


def test_what_a_placebo_passes_is_no_information_unless_the_claim_fails(records):
    """A coin that beats COREA says a lot."""
    upside_down = records["confidence"].where(
        records["system"] != "L1-SLM", 1 - records["confidence"]
    )
    fails = claim("auroc", "L1-SLM-Verb", "above 0.4")
    found = judged(records.assign(confidence=upside_down), fails).iloc[0]
    assert (found["verdict"], found["placebo_coin"]) == ("contradicted", "reproduced")
    assert found["informative"] == "yes"


def test_a_coin_deals_the_same_confidences_out_anew_in_each_dataset(records):
    ours = records[records["system"] == "L1-SLM"]
    tossed = claims.tossed(ours)
    assert tossed.equals(claims.tossed(ours)) and tossed["correct"].equals(ours["correct"])
    for dataset, rows in tossed.groupby("dataset"):
        before = ours[ours["dataset"] == dataset]["confidence"]
        assert sorted(rows["confidence"].fillna(-1)) == sorted(before.fillna(-1))
        assert abs(rows["confidence"].corr(before)) < 0.3


# --- decodings ---


def test_only_the_headline_counts_and_the_others_stand_beside_it(records):
    swapped = records.assign(system=records["system"].replace({"L1-SLM": "SLM", "SLM": "L1-SLM"}))
    by_decoding = {"t0.7": evidence(swapped), "t1": evidence(records), "greedy": evidence(records)}
    found = claims.table_claims(by_decoding.items(), (ECE,)).iloc[0]
    assert (found["decoding"], found["verdict"]) == ("t0.7", "contradicted")
    assert (found["verdict_t1"], found["verdict_greedy"]) == ("reproduced", "reproduced")


# --- claims that are to hold of several parts ---


def test_a_claim_about_every_part_is_that_about_the_worst(records):
    each = replace(ECE, scope="all by group")
    parts = judged(records, *(replace(ECE, scope=group) for group in claims.SCOPES["all"]))
    whole = judged(records, each).iloc[0]
    assert whole["value"] == parts["value"].max() and whole["high"] == parts["high"].max()
    assert whole["questions"] == 160 and whole["verdict"] == "reproduced"
    is_spoilt = (records["system"] == "L1-SLM") & (records["group"] == "ood-math")
    spoilt = records["confidence"].mask(is_spoilt, 1 - records["correct"])
    assert judged(records.assign(confidence=spoilt), each)["verdict"].tolist() == ["contradicted"]
    by_set = judged(records, replace(ECE, scope="all by set")).iloc[0]
    assert by_set["value"] >= whole["value"], "the worst set is worse than the worst group"


def test_runs_by_turns_are_each_compared_with_their_own(records):
    good, bad = (records[records["system"] == name] for name in ("L1-SLM", "SLM"))
    each = claim("ece", "tiny | small; tiny base | small base", "below 0")
    both = judged(records, each, tiny=good, tiny_base=bad, small=good, small_base=bad)
    assert both["verdict"].tolist() == ["reproduced"]
    one = judged(records, each, tiny=good, tiny_base=bad, small=bad, small_base=good)
    assert one["verdict"].tolist() == ["contradicted"]


def test_measures_that_are_to_hold_together():
    records = fake_records(questions=60)
    both = "cascade cost_reduction & cascade pass1_drop"
    true, false, never = (
        claim(both, "L1-SLM-Verb", f"above {saving} & below {loss}")
        for saving, loss in ((-0.5, 0.3), (-0.5, -0.2), (0.9, 0.3))
    )
    found = judged(records, true, false, never)
    assert found["verdict"].tolist() == ["reproduced", "contradicted", "contradicted"]
    parts = judged(records, CHEAPER, claim("cascade pass1_drop", "L1-SLM-Verb", "below 0.3"))
    inside = parts["value"].to_numpy() * [1, -1] + [0.5, 0.3]
    assert found["value"][0] == pytest.approx(inside.min()) and found["bound"][0] == "above 0"


def test_chance_alone_does_not_contradict_a_claim_about_many_parts():
    """Of twenty parts at the bound the worst lies well inside, yet not beyond what chance does."""
    records = fake_records(questions=50)
    rng = np.random.default_rng(1)
    ours, copies = records[records["system"] == "L1-SLM"], {}
    for number in range(20):
        picked = ours.assign(correct=rng.random(len(ours)) < 0.5)
        copies[f"run {number}"] = picked
    e = evidence(records, **{name.replace(" ", "_"): rows for name, rows in copies.items()})
    many = claim("pass1", " | ".join(copies), "above 0.5")
    found = claims.table_claims([("t0.7", e)], (many,)).iloc[0]
    assert found["value"] < 0.5 and found["verdict"] == "undecided"


# --- the table ---


def test_the_table_has_its_columns_and_the_papers_firm_claims_on_top(table):
    asked = "claim source firm value low high bound decoding verdict placebo_base placebo_coin"
    assert {*asked.split(), "verdict_greedy", "seeds", "fails_if"} <= set(table)
    assert list(table)[: len(claims.COLUMNS)] == claims.COLUMNS
    firm = table["firm"].tolist()
    assert firm == sorted(firm, reverse=True) and 6 <= sum(firm) < len(firm)
    assert table["source"].str.startswith("paper").tolist() == sorted(
        table["source"].str.startswith("paper"), reverse=True
    )
    assert (
        not table.duplicated(["claim", "scope"]).any() and table["fails_if"].str.len().gt(10).all()
    )
    assert set(table["verdict"]) <= {"reproduced", "contradicted", "undecided"}


def test_every_verdict_follows_from_its_row(table):
    for row in table.itertuples():
        side, bound = row.bound.split()
        assert claims.verdict(row.low, row.high, float(bound), side == "above") == row.verdict
        assert math.isnan(row.value) or row.low <= row.value <= row.high


def test_claims_about_runs_that_are_not_there_are_undecided(table):
    missing = table[table["value"].isna()]
    assert len(missing) >= 4 and missing["questions"].isna().all()
    assert (missing["verdict"] == "undecided").all() and (missing["informative"] == "").all()


def test_claims_about_ablations_read_their_runs(records):
    slm, ours = (records[records["system"] == name] for name in ("SLM", "L1-SLM"))
    wanted = [each for each in claims.read_claims() if each.systems == "mix-0.5; l2"]
    found = judged(records, *wanted, **{"l2": slm, "mix-0.5": ours})
    assert found["verdict"].tolist() == ["reproduced"] and found["questions"].tolist() == [160]


def test_the_figure_has_a_panel_for_each_block(table):
    figure, drawn = figures.claims_figure(table)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert drawn is table and len(titles) == 3
    assert titles[0] == f"the paper, firm ({table['firm'].sum()})"
    labels = [label for axes in figure.axes for label in axes.get_yticklabels()]
    greyed = sum(label.get_color() == figures.style.GREY for label in labels)
    assert len(labels) == len(table) and greyed == (table["informative"] == "no").sum() > 0


# --- measures ---


def with_accuracy(shares: dict[str, int]) -> claims.Evidence:
    """L1-SLM right in so many tenths of each OOD set, all answers kept, at a threshold of .6."""
    records = fake_records(questions=50)
    ours = records["system"] == "L1-SLM"
    number, correct = np.arange(len(records)) % 10, records["correct"].to_numpy().copy()
    for dataset, share in shares.items():
        here = (ours & (records["dataset"] == dataset)).to_numpy()
        correct[here] = number[here] < share
    confidence = np.where(np.arange(len(records)) % 2, 1.0, 0.99)
    found = evidence(
        records.assign(correct=correct, confidence=records["confidence"].where(~ours, confidence))
    )
    found.threshold = 0.6
    return found


def test_what_a_threshold_keeps_is_held_to_it_set_by_set():
    keeps = claim("kept", "L1-SLM-Verb", "above 0", scope="ood by set")
    good = with_accuracy({"shopping": 9, "weave": 9, "shell-game": 8})
    found = claims.table_claims([("t0.7", good)], (keeps,)).iloc[0]
    assert found["verdict"] == "reproduced" and found["value"] == pytest.approx(0.2, abs=0.05)
    bad = with_accuracy({"shopping": 9, "weave": 3, "shell-game": 9})
    found = claims.table_claims([("t0.7", bad)], (keeps,)).iloc[0]
    assert found["verdict"] == "contradicted" and found["value"] == pytest.approx(-0.3, abs=0.05)


def test_evidence_comes_by_decoding_and_then_by_numeral(records):
    """A numeral that is expected is the digits' expectation; other decodings keep what was stated."""
    both = pd.concat([records.assign(decoding="t0.7"), records.assign(decoding="greedy")])
    found = dict(claims.by_decoding(both, PRICES, resamples=20))
    assert [*found] == ["t0.7", "greedy", "numeral_greedy", "numeral_expected"]
    verb, digits = map(claims.system_of, ("L1-SLM-Verb", "L1-SLM-Digits"))
    read = {name: each.rows(verb, "all")["confidence"] for name, each in found.items()}
    assert read["t0.7"].equals(read["greedy"]) and len(read["t0.7"]) == 640
    expected = found["t0.7"].rows(digits, "all")["confidence"]
    assert np.allclose(read["numeral_expected"], expected, equal_nan=True)


def test_a_certified_cascade_keeps_to_what_it_was_asked():
    within = claim("certified pass1_drop", "L1-SLM-Verb", "below 0.05", scope="in-domain")
    saves = claim("certified cost_reduction", "L1-SLM-Verb", "above -0.01", scope="in-domain")
    found = judged(fake_records(questions=200), within, saves)
    assert found["verdict"].tolist() == ["reproduced", "reproduced"]


def test_random_deferral_gains_nothing_over_itself(records):
    gain = claim("cascade over_random", "L1-SLM-Verb", "above 0")
    found = judged(records, gain).iloc[0]
    assert found["verdict"] == "reproduced" and found["placebo_coin"] == "undecided"


def test_ranking_within_a_question():
    rows = pd.DataFrame({
        "dataset": "d", "seed": 0, "question_id": list("aabbccdd"), "correct": [True, False, True, False, True, True, False, True],
        "confidence": [0.9, 0.1, 0.1, 0.9, 0.5, 0.1, 0.5, 0.5],
    })  # fmt: skip
    found = claims._ranking_within(rows, np.full((1, 8), 1 / 8), 0.5)
    assert found[0] == pytest.approx((1 + 0 + 0.5) / 3), (
        "one ranked well, one badly, one tied; c has no wrong answer"
    )


# --- the page, and the file ---


def test_the_page_says_what_it_cannot_say():
    notebook = json.loads((ROOT / "notebooks" / "11_claims.ipynb").read_text())
    texts = ["".join(cell["source"]) for cell in notebook["cells"]]
    page = next(text for text in texts if text.startswith("## What the mini world cannot say"))
    points = page.split("\n- ")[1:]
    assert len(points) >= 3 and all(point.strip().endswith((";", ".")) for point in points)


HEAD = "claim,source,certainty,scope,kind,measure,systems,bound,paper_value,fails_if\n"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("firm,everywhere,value,ece,l2,above 0", "scope='everywhere'; use one of in-domain"),
        ("firm,all by day,value,ece,l2,above 0", "scope= is by 'day'; use one of , group, set"),
        ("firm,all,ratio,ece,anchor; l2,above 0", "kind='ratio'; use one of value, difference"),
        ("firm,all,value,ecce,l2,above 0", "measure='ecce'; use one of pass1, ece"),
        ("firm,all,difference,ece,l2,above 0", "1 systems; a difference is of 2"),
        ("firm,all,value,ece,l2 @ nowhere,above 0", "systems are in 'nowhere'; use one of"),
        ("firm,all,value,ece,l2,over 0", "bound='over 0'; use 'above' or 'below'"),
        ("firm,all,value,ece,l2,above much", "bound='above much'; use 'above' or 'below'"),
        ("firm,all,value,ece & auroc,l2,above 0", "bound='above 0'; use a bound for each"),
        ("surely,all,value,ece,l2,above 0", "certainty='surely'; use one of firm"),
    ],
)
def test_a_wrong_row_is_one_clear_line(row, said, tmp_path):
    path = tmp_path / "claims.csv"
    good = "A,paper,firm,all,difference,ece,anchor; l2,above 0,,no\n"
    path.write_text(f"{HEAD}{good}B,paper,{row},,no\n")
    with pytest.raises(ValueError, match="line 3: ") as caught:
        claims.read_claims(path)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_column_that_is_missing_is_named(tmp_path):
    path = tmp_path / "claims.csv"
    path.write_text(f"{HEAD.replace('scope,', '')}A,paper,firm,value,ece,l2,above 0,,no\n")
    with pytest.raises(ValueError, match=r"line 2: .*'scope'"):
        claims.read_claims(path)


def test_each_claim_names_runs_that_exist():
    """A misspelt run would leave its claim undecided for ever."""
    for each in claims.read_claims():
        for case in each.cases:
            for system, _ in case:
                assert system.slm in variants.RUNS, each.claim
                assert system.source in systems.SOURCES, each.claim


def test_a_source_says_how_it_is_known():
    """An arXiv number, or a name that was not found and is said to be second hand, or ours."""
    for each in claims.read_claims():
        known = re.search(r"^paper, |\d{4}\.\d{5}|second hand$|^ours: ", each.source)
        assert known, f"{each.claim}: {each.source}"
        assert (each.certainty in ("firm", "likely", "weak")) == each.source.startswith("paper")
