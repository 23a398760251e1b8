"""Parsing: from a completion's text to its reasoning, answer, confidence and errors of form.

The form asked for is `<think>working</think><answer>42</answer><confidence>0.7</confidence>`. A
chat template may end in `<think>`, so a completion may start inside the reasoning. White space
between the blocks is free. So is one `<analysis>` block (RLCR's format) before the answer and
before the confidence; it is reasoning too.

What stands outside the reasoning counts, once. Nothing is guessed: a form is read, read with its
problem named, or missing (None) with its problem named, as in `PROBLEMS`.

===============================================  ========  =========================================
form                                             read      problem
===============================================  ========  =========================================
no `<think>`, but `</think>`                     all       none: the prompt may have opened it
no think tag; the blocks end the text            all       missing-think
`<think>`, `<analysis>` not ended; the same end  all       unclosed-think
either, with text between or after the blocks    nothing   and tags-in-reasoning: no final word
answer or confidence inside the reasoning        the rest  tags-in-reasoning
text outside all blocks, anywhere else           the rest  stray-text
tags in another case, as `<Answer>`              all       tag-case
confidence before answer, nested reasoning, ...  all       tag-order
no tag that counts                               None      missing-answer, missing-confidence
no end tag before the next tag or the end        None      unclosed-answer, unclosed-confidence: 0.9
                                                           may be the start of 0.95
nothing but white space                          None      empty-answer, empty-confidence
several that differ (in value)                   None      several-answers, several-confidences
several, all the same                            that one  repeated-answer, repeated-confidence
control characters, lone surrogates in answers   None      control-characters
`0.7`, `.7`, `0`, `1`, `1.`, `0.70`              itself    none
`90%`, `90 %`; `100.`, `90`: 10 to 100, no sign  .9; 1 .9  percent-confidence: RLCR mostly wrote so
`1.5`, `7`, `3/2`: over 1, under 10              None      confidence-out-of-range: a slip, a
                                                           percentage or a mark out of 10
`101`, `150%`, `+90`, `1e2`, `-0.5`, `-0`        None      confidence-out-of-range
`9/10`                                           .9        fraction-confidence
`9e-1`, `+0.7`, `0.7.`                           .9 .7 .7  odd-numeral
`I am 90% confident`, `My confidence is 0.9`     .9 .9     prose-confidence: `_SURE` or `_STATED`
`high`, `9 out of 10`, `not 0.9`, `0.7 0.8`,     None      unreadable-confidence
`0,7`, `1/0`, `nan`, over 20 digits a side, ...
===============================================  ========  =========================================
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

PROBLEMS = (
    "missing-think", "unclosed-think", "tags-in-reasoning", "stray-text", "tag-case", "tag-order",
    "missing-answer", "unclosed-answer", "empty-answer", "several-answers", "repeated-answer",
    "control-characters", "missing-confidence", "unclosed-confidence", "empty-confidence",
    "several-confidences", "repeated-confidence", "unreadable-confidence",
    "confidence-out-of-range", "percent-confidence", "fraction-confidence", "prose-confidence",
    "odd-numeral",
)  # fmt: skip

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
        problems: names in `PROBLEMS`, in its order.
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
    """Parse one completion by the table at the head of this module, in linear time.

    Example:
        >>> parse("<think>6*7</think><answer>42</answer><confidence>0.7</confidence>").answer
        '42'
    """
    return _parse_cached(text) if len(text) <= _LONGEST_CACHED else _parse(text)


def _parse(text: str) -> Response:
    tags = list(_TAG.finditer(text))
    blocks, problems = _blocks_that_count(text, tags)
    answer, answer_problems = _agreed("answer", blocks, _read_answer)
    confidence, confidence_problems = _agreed("confidence", blocks, _read_confidence)
    problems |= answer_problems | confidence_problems
    if problems & {"empty-answer", "control-characters"}:
        answer = None
    is_format = len(tags) <= 10 and _FORMAT.fullmatch("".join(tag[0].lower() for tag in tags))
    if not _STRUCTURAL & problems and not is_format:
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


def _reasoning(text: str) -> str:
    text = text.strip(_BLANK)
    text = text[len("<think>") :] if text[:7].lower() == "<think>" else text
    text = text[: -len("</think>")] if text[-8:].lower() == "</think>" else text
    return text.strip(_BLANK)


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


def _agreed(kind: str, blocks: list[tuple], read: Callable) -> tuple[Any, set[str]]:
    """What all blocks of a kind say; None, and the reason, if it is not known."""
    bodies = [body for block_kind, _, body in blocks if block_kind == kind]
    if not bodies:
        return None, {f"missing-{kind}"}
    if None in bodies:
        return None, {f"unclosed-{kind}"}
    readings = [read(body.strip(_BLANK)) for body in bodies]
    if len({value for value, _ in readings}) > 1:
        return None, {f"several-{kind}s"}
    problems = {problem for _, problem in readings if problem is not None}
    return readings[0][0], problems | ({f"repeated-{kind}"} if len(bodies) > 1 else set())


def _read_answer(body: str) -> tuple[str, str | None]:
    if not body:
        return body, "empty-answer"
    return body, "control-characters" if _CONTROL.search(body) else None


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
