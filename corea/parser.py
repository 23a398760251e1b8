"""Parsing: from a completion's text to its reasoning, answer, confidence and errors of form.

The form asked for is `<think>working</think><answer>42</answer><confidence>0.7</confidence>`. A
chat template may end in `<think>`, so a completion may start inside the reasoning. White space
between the blocks is free. So is one `<analysis>` block (RLCR's format) before the answer and
before the confidence; it is reasoning too.

What stands outside the reasoning counts, once. Nothing is guessed: a form is accepted, accepted
with its problem named, or missing (None) with its problem named, as in `PROBLEMS`.

===============================================  ==========  =======================================
form of the whole                                counts      problem
===============================================  ==========  =======================================
no `<think>`, but `</think>`                     yes         none: the prompt may have opened it
no think tag; the blocks end the text            yes         missing-think
`<think>`, `<analysis>` not ended; the same end  yes         unclosed-think
either, with text between or after the blocks    no          and tags-in-reasoning: no final word
answer or confidence inside the reasoning        no          tags-in-reasoning
text outside all blocks, anywhere else           the blocks  stray-text
tags in another case, as `<Answer>`              yes         tag-case
confidence before answer, nested reasoning, ...  yes         tag-order
===============================================  ==========  =======================================

===============================================  ==========  =======================================
form of the answer                               answer      problem
===============================================  ==========  =======================================
no answer tag that counts                        None        missing-answer
nothing but white space                          None        empty-answer
no end tag before the next tag or the end of     None        unclosed-answer (so are nested ones:
the text                                                     which of them was meant is not known)
several that differ                              None        several-answers: a hedge is no answer
several, all the same                            that one    repeated-answer
control characters or lone surrogates in it      None        control-characters
===============================================  ==========  =======================================

===============================================  ==========  =======================================
form of the confidence                           confidence  problem
===============================================  ==========  =======================================
`0.7`, `.7`, `0`, `1`, `1.`, `0.70`              as written  none
`90%`, `90 %`, `0.5%`                            .9 .9 .005  percent-confidence
`100.`, `90`, `10.`: without a sign, 10 to 100   1 .9 .1     percent-confidence: so 2,284 of 6,507
                                                             outputs of RLCR, most of them `100.`
`1.5`, `7`, `3/2`: over 1, under 10              None        confidence-out-of-range: a slip, a
                                                             percentage or a mark out of 10
`101`, `150%`, `+90`, `1e2`, `-0.5`, `-0`,       None        confidence-out-of-range
`9/10`                                           .9          fraction-confidence
`9e-1`, `+0.7`, `0.7.`                           .9 .7 .7    odd-numeral
`I am 90% confident in this answer.`,            .9          prose-confidence: one of two exact
`My confidence is 0.9`                                       sentences, `_SURE` and `_STATED`
`high`, `9 out of 10`, `not 0.9`, `0.7 0.8`,     None        unreadable-confidence
`0,7`, `1/0`, `nan`, `inf`, `The answer is 42`,
other scripts' digits, over 20 digits a side
nothing but white space                          None        empty-confidence
no confidence tag that counts                    None        missing-confidence
no end tag before the next tag or the end of     None        unclosed-confidence: 0.9 may be the
the text                                                     start of 0.95
several of different value                       None        several-confidences
several, all of one value                        that one    repeated-confidence
===============================================  ==========  =======================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

PROBLEMS = {
    "missing-think": "neither <think> nor </think>",
    "unclosed-think": "the reasoning never ends",
    "tags-in-reasoning": "answer or confidence tags inside the reasoning, which earn nothing",
    "stray-text": "text outside every block",
    "tag-case": "a tag is not in lower case",
    "tag-order": "the tags are not exactly the format's, in its order",
    "missing-answer": "no answer tag that counts",
    "unclosed-answer": "an answer without its end tag",
    "empty-answer": "an answer of white space",
    "several-answers": "answers that differ",
    "repeated-answer": "the same answer more than once",
    "control-characters": "control characters or lone surrogates in the answer",
    "missing-confidence": "no confidence tag that counts",
    "unclosed-confidence": "a confidence without its end tag",
    "empty-confidence": "a confidence of white space",
    "several-confidences": "confidences that differ",
    "repeated-confidence": "the same confidence more than once",
    "unreadable-confidence": "a confidence that is not one number",
    "confidence-out-of-range": "a number that is no probability",
    "percent-confidence": "a percentage",
    "fraction-confidence": "a fraction",
    "prose-confidence": "a number in a sentence",
    "odd-numeral": "a number with a sign, an exponent or a full stop",
}

_TAG = re.compile(r"<(/?)(think|analysis|answer|confidence)>", re.IGNORECASE | re.ASCII)
_FORMAT = re.compile(
    r"(<think>)?</think>(<analysis></analysis>)?<answer></answer>"
    r"(<analysis></analysis>)?<confidence></confidence>"
)
_BLANK = " \t\r\n"
_NOT_BLANK = re.compile(f"[^{_BLANK}]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_PLAIN = r"(?:[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})"
_NUMERAL = (
    rf"(?P<sign>[+-]?)(?P<top>{_PLAIN}(?P<exponent>[eE][+-]?[0-9]{{1,3}})?)"
    rf"(?:[ ]?/[ ]?(?P<bottom>{_PLAIN})|[ ]?(?P<percent>%))?\.?"
)
_NUMBER = re.compile(_NUMERAL)
_SURE = re.compile(
    rf"(?:i am |i'm )?(?:about )?{_NUMERAL} (?:confident|sure|certain)"
    r"(?: (?:in|of|about) (?:this|the|my) answer)?\.?",
    re.IGNORECASE | re.ASCII,
)
_STATED = re.compile(
    rf"(?:my |the )?(?:confidence|probability)(?: level| score)?(?: is|:)(?: about)? {_NUMERAL}",
    re.IGNORECASE | re.ASCII,
)
_LONGEST_CACHED = 20_000  # characters


@dataclass(frozen=True, slots=True)
class Response:
    """A completion, parsed once.

    Attributes:
        reasoning: the text before the first block that counts, without think tags at its ends.
        answer: None if the model committed to none.
        confidence: in [0, 1]; None if none was stated.
        problems: keys of `PROBLEMS`, in that order.
    """

    reasoning: str
    answer: str | None
    confidence: float | None
    problems: tuple[str, ...] = ()

    @property
    def well_formed(self) -> bool:
        """Whether the form is exactly the one asked for."""
        return not self.problems


def parse(text: str) -> Response:
    """Parse one completion by the tables at the head of this module, in linear time.

    Example:
        >>> parse("<think>6*7</think><answer>42</answer><confidence>0.7</confidence>").answer
        '42'
        >>> parse("I think it is 42").confidence is None
        True
    """
    return _parse_cached(text) if len(text) <= _LONGEST_CACHED else _parse(text)


def _parse(text: str) -> Response:
    tags = list(_TAG.finditer(text))
    blocks, problems = _blocks_that_count(text, tags)
    bodies: dict[str, list[str | None]] = {"answer": [], "confidence": []}
    for kind, _, body in blocks:
        bodies[kind].append(body)
    answer, answer_problems = _answer(bodies["answer"])
    confidence, confidence_problems = _confidence(bodies["confidence"])
    problems |= answer_problems | confidence_problems
    if not _STRUCTURAL & problems and not _is_format(tags):
        problems.add("tag-order")
    if any(tag[0] != tag[0].lower() for tag in tags):
        problems.add("tag-case")
    reasoning = _reasoning(text[: blocks[0][1]] if blocks else text)
    return Response(reasoning, answer, confidence, tuple(p for p in PROBLEMS if p in problems))


# Three rewards and the log parse the same rollouts.
_parse_cached = lru_cache(maxsize=2048)(_parse)

# Problems that explain why the tags are not those of the format.
_STRUCTURAL = frozenset(
    p for p in PROBLEMS if p.split("-")[0] in ("missing", "unclosed", "tags", "several", "repeated")
)


def _is_format(tags: list[re.Match]) -> bool:
    return len(tags) <= 10 and bool(_FORMAT.fullmatch("".join(tag[0].lower() for tag in tags)))


def _reasoning(text: str) -> str:
    text = text.strip(_BLANK)
    text = text[len("<think>") :] if text[:7].lower() == "<think>" else text
    text = text[: -len("</think>")] if text[-8:].lower() == "</think>" else text
    return text.strip(_BLANK)


# --- which blocks count ---------------------------------------------------------------------------


def _blocks_that_count(text: str, tags: list[re.Match]) -> tuple[list[tuple], set[str]]:
    """The blocks outside the reasoning, as from `_blocks`, and problems."""
    blocks, problems, outside = [], set(), 0
    stretches, ended = _outside_reasoning(text, tags)
    if not ended:
        has_think = any(tag[2].lower() == "think" for tag in tags)
        problems.add("unclosed-think" if has_think else "missing-think")
    for number, (start, end) in enumerate(stretches, start=1):
        inside = list(_TAG.finditer(text, start, end))
        is_open = not ended and number == len(stretches)
        if is_open:  # what comes before the blocks is reasoning
            start = inside[0].start() if inside else end
        stretch_blocks, is_loose = _blocks(text, inside, start, end)
        if is_open and is_loose:  # the reasoning went on after them: they were not the final word
            continue
        if is_loose:
            problems.add("stray-text")
        blocks += stretch_blocks
        outside += len(inside)
    if outside < sum(tag[2].lower() in ("answer", "confidence") for tag in tags):
        problems.add("tags-in-reasoning")
    return blocks, problems


def _outside_reasoning(text: str, tags: list[re.Match]) -> tuple[list[tuple[int, int]], bool]:
    """Stretches of text outside the reasoning, and whether it ended; if not, the last is open."""
    first = next((tag for tag in tags if tag[2].lower() == "think"), None)
    depth = 1 if first is None or first[1] else 0  # the prompt may have opened the reasoning
    stretches, start = [], 0
    for tag in tags:
        if tag[2].lower() not in ("think", "analysis"):
            continue
        if depth == 0:
            stretches.append((start, tag.start()))
        depth = max(0, depth - 1) if tag[1] else depth + 1
        start = tag.end()
    return [*stretches, (start, len(text))], depth == 0


def _blocks(text: str, tags: list[re.Match], start: int, end: int) -> tuple[list[tuple], bool]:
    """Blocks of one stretch as (kind, start, body), and whether text lies loose between them.

    The body is None if another tag, or the end, came before the block's own end tag.
    """
    blocks, is_loose, opened, position = [], False, None, start
    for tag in tags:
        if opened is None:
            is_loose = is_loose or bool(_NOT_BLANK.search(text, position, tag.start()))
        else:
            kind = opened[2].lower()
            is_whole = tag[1] and tag[2].lower() == kind
            body = text[position : tag.start()] if is_whole else None
            blocks.append((kind, opened.start(), body))
        opened, position = (None if tag[1] else tag), tag.end()
    if opened is not None:
        return [*blocks, (opened[2].lower(), opened.start(), None)], is_loose
    return blocks, is_loose or bool(_NOT_BLANK.search(text, position, end))


# --- what a block says ----------------------------------------------------------------------------


def _answer(bodies: list[str | None]) -> tuple[str | None, set[str]]:
    if not bodies:
        return None, {"missing-answer"}
    closed = [body for body in bodies if body is not None]
    if len(closed) < len(bodies):
        return None, {"unclosed-answer"}
    answers = {body.strip(_BLANK) for body in closed}
    if len(answers) > 1:
        return None, {"several-answers"}
    problems = {"repeated-answer"} if len(bodies) > 1 else set()
    (answer,) = answers
    if not answer:
        return None, problems | {"empty-answer"}
    if _CONTROL.search(answer):
        return None, problems | {"control-characters"}
    return answer, problems


def _confidence(bodies: list[str | None]) -> tuple[float | None, set[str]]:
    if not bodies:
        return None, {"missing-confidence"}
    closed = [body for body in bodies if body is not None]
    if len(closed) < len(bodies):
        return None, {"unclosed-confidence"}
    readings = [_read_confidence(body.strip(_BLANK)) for body in closed]
    if len({value for value, _ in readings}) > 1:
        return None, {"several-confidences"}
    problems = {problem for _, problem in readings if problem is not None}
    return readings[0][0], problems | ({"repeated-confidence"} if len(bodies) > 1 else set())


def _read_confidence(body: str) -> tuple[float | None, str | None]:
    """Value and problem of a confidence's stripped text."""
    if not body:
        return None, "empty-confidence"
    number = _NUMBER.fullmatch(body)
    if number:
        return _read_number(number)
    sentence = _SURE.fullmatch(body) or _STATED.fullmatch(body)
    if sentence:
        value, problem = _read_number(sentence)
        return value, problem if value is None else "prose-confidence"
    return None, "unreadable-confidence"


def _read_number(number: re.Match) -> tuple[float | None, str | None]:
    """Value and problem of one number; `_NUMERAL` bounds its length, so `float` cannot be slow."""
    value, problem = float(number["top"]), None
    is_bare = not (number["sign"] or number["exponent"])
    if number["bottom"]:
        if float(number["bottom"]) == 0:
            return None, "unreadable-confidence"
        value, problem = value / float(number["bottom"]), "fraction-confidence"
    elif number["percent"] or (is_bare and 10 <= value <= 100):
        value, problem = value / 100, "percent-confidence"
    elif not re.fullmatch(_PLAIN, number[0]):
        problem = "odd-numeral"
    if number["sign"] == "-" or not 0 <= value <= 1:
        return None, "confidence-out-of-range"
    return value, problem
