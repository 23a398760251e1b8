"""What all engines have in common: they turn questions into completions.

A completion depends on the question's id, the sample's index and the seed, not on what else is in
the batch (up to float rounding). So a part of the questions, asked again, gives the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar, Protocol

from corea import prompts
from corea.engines import numerals
from corea.questions.base import Question, as_questions

Questions = Sequence[Question | str]
Progress = Callable[[int], object] | None  # told how many completions are new since the last call


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote for one prompt; the last three fields only if it is asked to keep them."""

    text: str
    prompt_tokens: int  # by the model's own tokenizer, without padding
    completion_tokens: int  # with the end token
    finish: str  # "stop", or "length" if the token limit cut it off
    logprobs: tuple[float, ...] | None = None  # natural, at temperature 1, one per token
    answer_span: tuple[int, int] | None = None  # the answer's first token, and one past its last
    numerals: dict[str, float] | None = None  # see `numerals_of_path`; None if no place for them


class Engine(Protocol):
    """Anything that completes questions: outer list by question, inner by sample."""

    name: str

    def complete(
        self, questions: Questions, *, samples: int = 1, seed: int = 0, progress: Progress = None
    ) -> list[list[Completion]]: ...


class ModelFilesError(ValueError):
    """Weights that are missing, damaged or not what their manifest says."""


@dataclass(eq=False)
class ModelEngine:
    """What the engines that run a model in this process share: settings, prompts, batches."""

    tokenizer: Any
    _: KW_ONLY
    name: str
    max_new_tokens: int
    batch_size: int  # completions generated at once
    temperature: float = 1.0  # 0 is greedy decoding
    instruction: str | None = None  # the system turn, for models not taught the response format
    keep_logprobs: bool = False  # fill the fields of `Completion` that estimators read
    top_logprobs: int = 20  # how many of the likeliest tokens of a step they are made from
    sorts: ClassVar[bool] = True  # batches alike lengths, which wastes the least padding
    reads_past_limit: ClassVar[bool] = True  # a completion that was cut off has room for a branch

    def __post_init__(self):
        check_settings(self, temperature=0, max_new_tokens=1, batch_size=1)
        self.top_logprobs = self.top_logprobs if self.keep_logprobs else 0

    def complete(
        self, questions: Questions, *, samples: int = 1, seed: int = 0, progress: Progress = None
    ) -> list[list[Completion]]:
        """Complete each question `samples` times; `progress` is called after each batch."""
        questions = as_questions(questions)
        texts = prompts.render(questions, self.tokenizer, instruction=self.instruction)
        rows = [(q, s) for q in range(len(questions)) for s in range(samples)]
        if self.sorts:
            rows.sort(key=lambda row: len(texts[row[0]]))
        completions: dict[tuple[int, int], Completion] = {}
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            batch_texts = [texts[q] for q, _ in batch]
            keys = [f"{seed}/{questions[q].id}/{s}" for q, s in batch]
            written = self._generate(batch_texts, keys)
            completions.update(zip(batch, self._with_branches(batch_texts, written), strict=True))
            if progress:
                progress(len(batch))
        return [[completions[q, s] for s in range(samples)] for q in range(len(questions))]

    def close(self) -> None:
        """Give back the memory; the engine cannot be asked again."""

    def _with_branches(self, texts: list[str], completions: list[Completion]) -> list[Completion]:
        """Completions with the numerals of the branch "0." too, if "1" was written."""
        unread = {
            n: texts[n] + before
            for n, c in enumerate(completions)
            if (before := numerals.before_unread_branch(c.text, c.numerals)) is not None
            and (self.reads_past_limit or c.finish == "stop")
        }
        branches = self._branches([*unread.values()]) if unread else []
        for n, likely in zip(unread, branches, strict=True):
            both = numerals.with_branch(completions[n].numerals or {}, likely)
            completions[n] = replace(completions[n], numerals=both)
        return completions

    def _generate(self, texts: list[str], keys: list[str]) -> list[Completion]:
        """Complete prompts, each by random numbers of its own key."""
        raise NotImplementedError

    def _branches(self, texts: list[str]) -> list[numerals.Likely]:
        """The likeliest tokens after each text and "0.", with log-probabilities of the whole."""
        raise NotImplementedError

    def _completion(
        self, tokens: list[int], prompt_tokens: int, finish: str, kept: tuple | None
    ) -> Completion:
        """A completion; kept by step: its log-probability, the likely tokens' ids, and theirs."""
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        completion = Completion(text, prompt_tokens, len(tokens), finish)
        if kept is None:
            return completion
        logprobs, likely, likely_logprobs = kept
        return with_estimates(
            completion,
            [self.tokenizer.decode([token]) for token in tokens],
            logprobs[: len(tokens)],
            lambda n: self._decoded(likely[n], likely_logprobs[n]),
        )

    def _decoded(self, tokens: Sequence[int], logprobs: Sequence[float]) -> numerals.Likely:
        pairs = zip(tokens, logprobs, strict=True)
        return [(self.tokenizer.decode([token]), float(logprob)) for token, logprob in pairs]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False).input_ids


def check_settings(engine: Engine, **least: float) -> None:
    """Raise ValueError unless each of these settings of an engine is at least so large."""
    for setting, low in least.items():
        if (value := getattr(engine, setting)) < low:
            raise ValueError(f"engine {engine.name!r}: {setting}={value} must be >= {low}")


def with_estimates(
    completion: Completion,
    pieces: Sequence[str],
    logprobs: Sequence[float],
    likeliest: Callable[[int], numerals.Likely],
) -> Completion:
    """Fill in what estimators read; `likeliest` is called for the confidence's tokens only."""
    place = numerals.span_of(pieces, "<confidence>", "</confidence>")
    path = place and [(pieces[n], float(logprobs[n]), likeliest(n)) for n in range(*place)]
    return replace(
        completion,
        logprobs=tuple(map(float, logprobs)),
        answer_span=numerals.span_of(pieces, "<answer>", "</answer>"),
        numerals=None if path is None else numerals.numerals_of_path(path),
    )
