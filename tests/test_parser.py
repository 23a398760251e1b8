"""The parser's tables row by row, its limits, and its agreement with what RLCR recorded."""

from __future__ import annotations

import json
import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from corea import parser, prompts
from corea.parser import PROBLEMS, Response, parse

GOOD = "<think>2*3=6</think><answer>6</answer><confidence>0.7</confidence>"


def respond(answer: str = "<answer>6</answer>", confidence: str = "<confidence>0.7</confidence>"):
    return f"<think>w</think>{answer}{confidence}"


# (why, text, answer, confidence, problems)
FORMS = [
    ("the form asked for", GOOD, "6", 0.7, ""),
    ("opened by the prompt", GOOD.removeprefix("<think>"), "6", 0.7, ""),
    ("white space between", GOOD.replace("><", ">\n \t\r\n<"), "6", 0.7, ""),
    ("white space around", f"\n{GOOD}\n", "6", 0.7, ""),
    ("analysis before the confidence", respond("<answer>6</answer><analysis>a</analysis>"), "6", 0.7, ""),
    ("analysis before the answer", respond("<analysis>a</analysis><answer>6</answer>"), "6", 0.7, ""),
    ("no working", GOOD.replace("2*3=6", ""), "6", 0.7, ""),
    ("other tags in the working", GOOD.replace("2*3", "<b>2</b> < 3"), "6", 0.7, ""),
    ("no think tags", "6 it is <answer>6</answer><confidence>1</confidence>", "6", 1, "missing-think"),
    ("think not ended", GOOD.replace("</think>", ""), "6", 0.7, "unclosed-think"),
    ("analysis not ended", respond("<answer>6</answer><analysis>a"), "6", 0.7, "unclosed-think"),
    (
        "a draft in reasoning that was cut off",
        "<think>maybe <answer>6</answer><confidence>1</confidence> but wait",
        None,
        None,
        "unclosed-think tags-in-reasoning missing-answer missing-confidence",
    ),
    (
        "the same, opened by the prompt",
        "maybe <answer>6</answer><confidence>1</confidence> but wait",
        None,
        None,
        "missing-think tags-in-reasoning missing-answer missing-confidence",
    ),
    (
        "answer inside the reasoning alone",
        "<think><answer>6</answer></think><confidence>0.7</confidence>",
        None,
        0.7,
        "tags-in-reasoning missing-answer",
    ),
    (
        "a draft inside the reasoning earns nothing, the answer outside counts",
        "try <answer>5</answer><confidence>1</confidence> no</think>" + respond()[16:],
        "6",
        0.7,
        "tags-in-reasoning",
    ),
    ("answer inside the analysis", respond("<answer>6</answer><analysis><answer>7</answer></analysis>"),
     "6", 0.7, "tags-in-reasoning"),
    ("a tag named in the reasoning", "an <answer> tag</think>" + respond()[16:], "6", 0.7,
     "tags-in-reasoning"),
    ("text after the end", GOOD + " So 7.", "6", 0.7, "stray-text"),
    ("text before", "Well: " + GOOD, "6", 0.7, "stray-text"),
    ("text between", respond("<answer>6</answer> surely "), "6", 0.7, "stray-text"),
    ("no end tag's last sign", respond("<answer>6</answer"), None, 0.7, "unclosed-answer"),
    ("case of tags", GOOD.upper(), "6", 0.7, "tag-case"),
    ("case of one tag", GOOD.replace("</answer>", "</Answer>"), "6", 0.7, "tag-case"),
    ("other letters that fold to a tag's", GOOD.replace("think", "thin\u212a"), "6", 0.7, "missing-think"),
    ("confidence first", "<think>w</think><confidence>0.7</confidence><answer>6</answer>", "6", 0.7,
     "tag-order"),
    ("reasoning after the answer", respond() + "<think>hm</think>", "6", 0.7, "tag-order"),
    ("reasoning twice", "<think>v</think>" + respond(), "6", 0.7, "tag-order"),
    ("reasoning nested", f"<think>v{respond()[:16]}</think>{respond()[16:]}", "6", 0.7, "tag-order"),
    ("a tail that says it ends twice", respond() + "</confidence>", "6", 0.7, "tag-order"),
    (
        "the next problem, made up after the end",
        GOOD + " PROBLEM: 3*3? " + GOOD.replace("6", "9"),
        None,
        0.7,
        "stray-text several-answers repeated-confidence",
    ),
    ("empty", "", None, None, "missing-think missing-answer missing-confidence"),
    ("reasoning alone", "<think>w</think>", None, None, "missing-answer missing-confidence"),
    ("reasoning without end", "<think>w w w", None, None,
     "unclosed-think missing-answer missing-confidence"),
    ("no answer", respond(answer=""), None, 0.7, "missing-answer"),
    ("empty answer", respond("<answer> \n</answer>"), None, 0.7, "empty-answer"),
    ("answer without end", respond("<answer>6"), None, 0.7, "unclosed-answer"),
    ("answer ended as confidence", respond("<answer>6</confidence>"), None, 0.7, "unclosed-answer"),
    ("answer in answer", respond("<answer>5<answer>6</answer></answer>"), None, 0.7, "unclosed-answer"),
    ("confidence in answer", "<think>w</think><answer>6<confidence>0.7</confidence></answer>", None, 0.7,
     "unclosed-answer"),
    ("reasoning in answer", respond("<answer>5<think>6</think></answer>"), None, 0.7, "unclosed-answer"),
    ("two answers", respond("<answer>5</answer><answer>6</answer>"), None, 0.7, "several-answers"),
    ("one empty of two", respond("<answer></answer><answer>6</answer>"), None, 0.7, "several-answers"),
    ("one answer twice", respond("<answer>6</answer><answer> 6 </answer>"), "6", 0.7, "repeated-answer"),
    ("NUL in the answer", respond("<answer>\x006</answer>"), None, 0.7, "control-characters"),
    ("escape in the answer", respond("<answer>5\x1b[1D6</answer>"), None, 0.7, "control-characters"),
    ("lone surrogate", respond("<answer>6\ud800</answer>"), None, 0.7, "control-characters"),
    ("lines in the answer", respond("<answer>\n6\n7\n</answer>"), "6\n7", 0.7, ""),
    ("markup in the answer", respond("<answer>a<b, <i>6</i></answer>"), "a<b, <i>6</i>", 0.7, ""),
    ("no confidence", respond(confidence=""), "6", None, "missing-confidence"),
    ("confidence without end", respond(confidence="<confidence>0.9"), "6", None, "unclosed-confidence"),
    ("two confidences", respond() + "<confidence>0.8</confidence>", "6", None, "several-confidences"),
    ("one of two unreadable", respond() + "<confidence>?</confidence>", "6", None, "several-confidences"),
    ("one confidence twice", respond() + "<confidence>.70</confidence>", "6", 0.7, "repeated-confidence"),
]  # fmt: skip

# (text of the confidence, value, problem)
CONFIDENCES = [
    *(
        (body, float(body), None)
        for body in ("0.7", ".7", "0", "1", "1.", "0.", "0.70", "0.999999", "00.5")
    ),
    (" \n0.7\t\r\n", 0.7, None),
    ("90%", 0.9, "percent-confidence"),
    ("90 %", 0.9, "percent-confidence"),
    ("0.5%", 0.005, "percent-confidence"),
    ("100%.", 1.0, "percent-confidence"),
    ("100.", 1.0, "percent-confidence"),
    ("100", 1.0, "percent-confidence"),
    ("90", 0.9, "percent-confidence"),
    ("10.", 0.1, "percent-confidence"),
    ("99.99999999999999.", 0.9999999999999999, "percent-confidence"),
    ("9.99", None, "confidence-out-of-range"),
    ("7", None, "confidence-out-of-range"),
    ("1.5", None, "confidence-out-of-range"),
    ("1.0000001", None, "confidence-out-of-range"),
    ("100.5", None, "confidence-out-of-range"),
    ("101", None, "confidence-out-of-range"),
    ("150%", None, "confidence-out-of-range"),
    ("+90", None, "confidence-out-of-range"),
    ("1e2", None, "confidence-out-of-range"),
    ("9e1", None, "confidence-out-of-range"),
    ("-0.5", None, "confidence-out-of-range"),
    ("-0", None, "confidence-out-of-range"),
    ("-90%", None, "confidence-out-of-range"),
    ("1e999", None, "confidence-out-of-range"),
    ("3/2", None, "confidence-out-of-range"),
    ("9/10", 0.9, "fraction-confidence"),
    ("1 / 4", 0.25, "fraction-confidence"),
    ("90/100", 0.9, "fraction-confidence"),
    ("1/0", None, "unreadable-confidence"),
    ("1e999/1e999", None, "unreadable-confidence"),
    ("9e-1", 0.9, "odd-numeral"),
    ("9E-1", 0.9, "odd-numeral"),
    ("1e-999", 0.0, "odd-numeral"),
    ("+0.7", 0.7, "odd-numeral"),
    ("0.7.", 0.7, "odd-numeral"),
    ("I am 90% confident in this answer.", 0.9, "prose-confidence"),
    ("I am 0.9 confident in this answer.", 0.9, "prose-confidence"),
    ("Confidence: 0.9", 0.9, "prose-confidence"),
    ("My confidence level is about 90%.", 0.9, "prose-confidence"),
    ("I'm 90 % sure", 0.9, "prose-confidence"),
    ("The answer is 42", None, "unreadable-confidence"),
    ("the answer is 90%", None, "unreadable-confidence"),
    ("I am sure 42 is the answer", None, "unreadable-confidence"),
    ("confidence in the answer 42", None, "unreadable-confidence"),
    ("(0.9)", None, "unreadable-confidence"),
    ("my confidence level is 150%", None, "confidence-out-of-range"),
    ("I am not 90% confident", None, "unreadable-confidence"),
    ("less than 0.5", None, "unreadable-confidence"),
    ("I am sure of step 1", None, "unreadable-confidence"),
    ("9 out of 10", None, "unreadable-confidence"),
    ("high", None, "unreadable-confidence"),
    ("I am certain", None, "unreadable-confidence"),
    ("0.7 0.8", None, "unreadable-confidence"),
    ("0.7-0.8", None, "unreadable-confidence"),
    ("0,7", None, "unreadable-confidence"),
    ("0.7; import os", None, "unreadable-confidence"),
    ("0x1", None, "unreadable-confidence"),
    ("1_0", None, "unreadable-confidence"),
    (".", None, "unreadable-confidence"),
    ("nan", None, "unreadable-confidence"),
    ("inf", None, "unreadable-confidence"),
    ("-Infinity", None, "unreadable-confidence"),
    ("0.\u0667", None, "unreadable-confidence"),
    ("\uff10.\uff17", None, "unreadable-confidence"),
    ("\u00bd", None, "unreadable-confidence"),
    ("0\x00.7", None, "unreadable-confidence"),
    ("\x1f0.7", None, "unreadable-confidence"),
    ("\u00a00.7", None, "unreadable-confidence"),
    ("0." + "3" * 20, float("0." + "3" * 20), None),
    ("0." + "3" * 21, None, "unreadable-confidence"),
    ("9" * 1_000_000, None, "unreadable-confidence"),
    ("I am " + "9" * 21 + "% sure", None, "unreadable-confidence"),
    ("", None, "empty-confidence"),
    (" \n", None, "empty-confidence"),
]


@pytest.mark.parametrize(
    ("text", "answer", "confidence", "problems"),
    [pytest.param(*row, id=why) for why, *row in FORMS],
)
def test_every_form_follows_its_table(text, answer, confidence, problems):
    response = parse(text)
    assert (response.answer, response.confidence) == (answer, confidence)
    assert set(response.problems) == set(problems.split())
    assert response.well_formed == (not problems)


@pytest.mark.parametrize(
    ("body", "value", "problem"), CONFIDENCES, ids=lambda part: repr(part)[:40]
)
def test_every_confidence_follows_its_table(body, value, problem):
    response = parse(respond(confidence=f"<confidence>{body}</confidence>"))
    assert response == Response("w", "6", value, (problem,) if problem else ())


def test_every_problem_is_documented_and_has_a_row():
    in_rows = {problem for row in FORMS for problem in row[4].split()}
    assert in_rows | {problem for _, _, problem in CONFIDENCES if problem} == set(PROBLEMS)
    assert set(re.findall(r"[a-z]+(?:-[a-z]+)+", parser.__doc__)) >= set(PROBLEMS)


@pytest.mark.parametrize(
    ("text", "reasoning"),
    [
        (GOOD, "2*3=6"),
        (GOOD.removeprefix("<think>"), "2*3=6"),
        (GOOD.replace("</think>", ""), "2*3=6"),
        ("so 6.\n<answer>6</answer>", "so 6."),
        ("<think>\nso <answer>6</answer>\n</think>", "so <answer>6</answer>"),
        ("no tags", "no tags"),
        ("", ""),
    ],
)
def test_reasoning_is_what_stands_before_the_first_block_that_counts(text, reasoning):
    assert parse(text).reasoning == reasoning


# --- any text -------------------------------------------------------------------------------------

PIECES = [
    *prompts.TAGS,
    "<analysis>",
    "</analysis>",
    "</Think>",
    "<",
    ">",
    "</",
    " ",
    "6",
    "0.7",
    "90%",
    "x\n",
]
mess = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5)), max_size=25).map("".join)
# hypothesis never makes "<" here, so no tag can arise
words = st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="<"), max_size=30)
answers = words.map(lambda text: text.strip(" ")).filter(bool)


@given(st.one_of(mess, st.text()))
@example("</think></think><answer>")
def test_any_text_gives_a_valid_response(text):
    response = parse(text)
    assert response == parser._parse(text)  # the cache changes nothing
    assert response.confidence is None or 0 <= response.confidence <= 1
    assert response.answer is None or response.answer.strip(" \t\r\n") == response.answer != ""
    assert set(response.problems) <= set(PROBLEMS)
    if response.well_formed:
        assert response.answer is not None and response.confidence is not None


@given(mess)
def test_an_answer_stands_in_the_text_between_its_tags(text):
    answer = parse(text).answer
    if answer is not None:
        bodies = re.findall(r"<answer>(.*?)</answer>", text, re.IGNORECASE | re.DOTALL)
        assert answer in {body.strip(" \t\r\n") for body in bodies}


@given(words, answers, st.sampled_from(prompts.CONFIDENCES), st.booleans())
def test_what_is_rendered_is_read_back(working, answer, confidence, opened_by_prompt):
    text = prompts.response_text(working, answer, confidence)
    text = text.removeprefix("<think>") if opened_by_prompt else text
    assert parse(text) == Response(working.strip(" "), answer, float(confidence))


@given(words, words)
def test_noise_around_a_response_costs_its_form_alone(before, after):
    response = parse(before + GOOD + after)
    assert (response.answer, response.confidence) == ("6", 0.7)
    assert response.problems == (() if not (before + after).strip(" ") else ("stray-text",))


@given(st.one_of(mess, st.text(max_size=40)).filter(lambda text: "think>" not in text.lower()))
def test_nothing_inside_the_reasoning_changes_what_counts(inside):
    response = parse(f"<think>{inside.replace('analysis', '')}</think>{respond()[16:]}")
    assert (response.answer, response.confidence) == ("6", 0.7)


@given(mess.filter(lambda text: "<think>" not in text.lower() and "<analysis>" not in text.lower()))
def test_two_answers_after_the_reasoning_never_earn_either(between):
    assert parse(f"{GOOD}{between}<answer>7</answer><confidence>0.2</confidence>").answer is None


# --- cost -----------------------------------------------------------------------------------------

UNITS = [*prompts.TAGS, "<analysis>", "<", "</", "9", " ", "\n", "<answer></answer>", "<think></think>",
         "<confidence>1</confidence>", "<answer><confidence>", "<think><answer>", "<answer>a</answer> b"]  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(
    "shell", ["{}", "<think>w</think><answer>{}</answer><confidence>{}</confidence>"]
)
def test_a_megabyte_of_anything_takes_linear_time(unit, shell):
    text = shell.replace("{}", unit * (1_000_000 // len(unit) // shell.count("{}")))
    start = time.process_time()
    parse(text)
    assert time.process_time() - start < 1.5  # .1 to .5 measured; quadratic time would be minutes


def test_long_texts_are_not_kept_in_the_cache():
    before = parser._parse_cached.cache_info().currsize
    parse("x" * 1_000_000)
    assert parser._parse_cached.cache_info().currsize == before
    assert parser._parse_cached.cache_info().maxsize is not None


# --- agreement with others ------------------------------------------------------------------------


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


TWO_STARTS = "a second tag begins before the first has ended: which number was meant is not known"
# confidence bodies of which RLCR recorded the first number, and for which we give None
DIFFER_FROM_RLCR = {
    "90. <confidence> 0.9 ": TWO_STARTS,
    "100. <confidence> 1.0 ": TWO_STARTS,
    "0. </think><confidence> 0.01 ": TWO_STARTS + "; here 0.0 and 0.01 differ",
    "100. </think><confidence> 1.0 ": TWO_STARTS,
    " 1.0 </confidence </answer><confidence>100.": TWO_STARTS,
    "10. </think><answer> 12 </answer> <analysis> The expression $\\": (
        "the confidence never ends; an answer and an analysis that is cut off follow"
    ),
}


def test_agreement_with_the_confidences_rlcr_recorded(shared, record_property):
    rows = read_lines(shared / "cases/rlcr_confidence_strings.jsonl")
    read = {
        r["tag_body"]: parse(respond(confidence=f"<confidence>{r['tag_body']}</confidence>"))
        for r in rows
    }
    agree = [r for r in rows if read[r["tag_body"]].confidence == r["rlcr_parsed"]]
    report = (
        f"{len(agree)} of {len(rows)} bodies, "
        f"{sum(r['count'] for r in agree)} of {sum(r['count'] for r in rows)} outputs"
    )
    record_property("agreement with rlcr_confidence_strings", report)
    print(report)
    differ = {r["tag_body"] for r in rows} - {r["tag_body"] for r in agree}
    assert differ == set(DIFFER_FROM_RLCR)
    assert all(read[body].confidence is None for body in differ)  # never another number


def test_agreement_with_whole_recorded_outputs(shared, record_property):
    rows = read_lines(shared / "traces/rlcr_commonsenseqa_outputs.jsonl")
    responses = [parse(row["output"]) for row in rows]
    differ = [
        response
        for row, response in zip(rows, responses, strict=True)
        if response.confidence != row["recorded_confidence"]
    ]
    report = f"{len(rows) - len(differ)} of {len(rows)} outputs"
    record_property("agreement with recorded outputs", report)
    print(report)
    # reasoning that never ends and goes on after the tags: they were not the final word
    assert all(r.confidence is None and "tags-in-reasoning" in r.problems for r in differ)
    assert len(differ) == 28 and all(
        {"unclosed-think", "missing-think"} & set(r.problems) for r in differ
    )
    trained = [r for row, r in zip(rows, responses, strict=True) if row["model"] == "RLCR"]
    assert len(trained) == 1221 and all(r.well_formed for r in trained)


def test_reasoning_ends_where_trl_says_so(shared):
    # TRL wants free text after the reasoning, we want blocks, so only the end of the reasoning compares
    for row in read_lines(shared / "cases/trl_think_format.jsonl"):
        problems = set(parse(row["completion"] + respond()[16:]).problems)
        if row["expected_reward"] == 1:
            assert not {"missing-think", "unclosed-think", "tag-order"} & problems, row
        elif row["completion"].startswith("This is my reasoning.</think>"):
            assert problems == {"stray-text"}, (
                "TRL wants <think>; here the prompt may have opened it"
            )
        else:
            assert problems & {"missing-think", "unclosed-think", "tag-order", "stray-text"}, row
