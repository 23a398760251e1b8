"""Base weights of the mini world: what stands where Qwen2.5 stands in the paper.

Stage 1, *reading*: supervised training on worked examples of every family.  Some have a slip in one
character, and their writers bluff: they state a high confidence whatever the answer is worth.
Stage 2, *self-knowledge*: the model answers fresh questions several times, and reads texts made of
its own answers.  A share of them has honest writers, who state how often it was right on that
question.  Nothing tells an honest writer from a bluffer, so the model learns a mixture of the two:
overconfident on average, with a weak trace of what it knows, which reinforcement can find.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock

from corea import prompts
from corea.evaluation import judge
from corea.grader import Grader
from corea.mini.tokenizer import build_mini_tokenizer
from corea.questions import generated
from corea.questions.base import Question
from corea.questions.generated import Sketch
from corea.questions.load import draw, load_questions
from corea.support.files import atomic_write, settings_hash, sha256_of

# Confidences of bluffers: in the texts of stage 1 and, bolder still, of stage 2.
READING_BLUFF = {"0.6": 0.03, "0.7": 0.07, "0.8": 0.2, "0.9": 0.4, "1.0": 0.3}
OWN_BLUFF = {"0.8": 0.05, "0.9": 0.3, "1.0": 0.65}
_READING = (
    "name", "hidden_size", "layers", "intermediate_size", "steps", "levels", "slip", "batch_size",
    "learning_rate", "matrix_learning_rate", "head_size", "seed", "architecture",
)  # fmt: skip
_SELF_KNOWLEDGE = ("own_questions", "own_samples", "own_steps", "own_rate_scale", "honest")
Text = tuple[str, str]  # a question and a response
Answered = tuple[
    str, list[str], list[bool]
]  # a question, completions, whether each sample is right


@dataclass(frozen=True, slots=True)
class BaseSpec:
    """Architecture and recipe of one base model.

    Args:
        levels: weights of the ladder's levels in the texts.
        slip: chance per twenty characters of working that one is wrong.
        learning_rate, matrix_learning_rate: peaks of AdamW, and of Muon for weight matrices.
        own_questions, own_samples, own_steps: of stage 2, which is left out if it has no steps.
        own_rate_scale: of both learning rates in stage 2.
        honest: share of its texts whose confidence is the model's own success rate.
        architecture: "Qwen2" or "Llama".
    """

    name: str
    hidden_size: int
    layers: int
    intermediate_size: int
    steps: int
    levels: tuple[float, ...]
    slip: float
    batch_size: int = 64
    learning_rate: float = 4e-3
    matrix_learning_rate: float = 0.01
    own_questions: int = 0
    own_samples: int = 8
    own_steps: int = 0
    own_rate_scale: float = 0.2
    honest: float = 0.25
    head_size: int = 32
    seed: int = 0
    architecture: str = "Qwen2"

    def hashed(self, *, reading: bool = False) -> dict:
        """What weights depend on, by name; of stage 1 only, which several recipes may share."""
        names = _READING if reading else (*_READING, *_SELF_KNOWLEDGE)
        return {name: getattr(self, name) for name in names}


def build_model(spec: BaseSpec, vocab_size: int):
    """A freshly initialised causal language model of the spec's architecture, embeddings tied."""
    import torch
    import transformers

    if spec.architecture not in ("Qwen2", "Llama"):
        raise ValueError(
            f"architecture={spec.architecture!r} of {spec.name!r} is not one of Qwen2, Llama"
        )
    heads = spec.hidden_size // spec.head_size
    config = getattr(transformers, f"{spec.architecture}Config")(
        vocab_size=-(-vocab_size // 8) * 8,
        hidden_size=spec.hidden_size,
        num_hidden_layers=spec.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        intermediate_size=spec.intermediate_size,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 300.0},
        initializer_range=0.05,
        tie_word_embeddings=True,
        bos_token_id=None,
    )
    torch.manual_seed(spec.seed)
    return getattr(transformers, f"{spec.architecture}ForCausalLM")(config)


def with_slip(sketch: Sketch, rate: float, rng: random.Random) -> Sketch:
    """The sketch of a hasty writer: one letter or digit of working or answer may be wrong."""
    whole = f"{sketch.working}|{sketch.answer}"
    if rng.random() >= min(0.5, rate * len(whole) / 20):
        return sketch
    place = rng.choice([n for n, c in enumerate(whole) if c.isalnum()])
    kind = "0123456789" if whole[place].isdigit() else "abcdefghijklmnopqrstuvwxyz"
    wrong = rng.choice(kind.replace(whole[place].lower(), ""))
    wrong = wrong.upper() if whole[place].isupper() else wrong
    working, answer = (whole[:place] + wrong + whole[place + 1 :]).rsplit("|", 1)
    return Sketch(sketch.text, working, answer, sketch.answer_type)


def _bluff(shares: dict[str, float], rng: random.Random) -> str:
    """A confidence that says nothing about the answer."""
    return rng.choices(list(shares), weights=list(shares.values()))[0]


def reading_texts(spec: BaseSpec, count: int) -> Iterator[Text]:
    """`count` texts of stage 1."""
    rng = random.Random(f"{spec.name}/reading/{spec.seed}")
    stream = draw(tuple(generated.FAMILIES), "pretrain", f"{spec.name}/{spec.seed}", spec.levels)
    for _, _, sketch in itertools.islice(stream, count):
        written = with_slip(sketch, spec.slip, rng)
        stated = _bluff(READING_BLUFF, rng)
        yield sketch.text, prompts.response_text(written.working, written.answer, stated)


def self_knowledge_texts(spec: BaseSpec, answered: list[Answered], count: int) -> Iterator[Text]:
    """`count` texts of stage 2: own answers, their confidence honest in a share of them."""
    rng = random.Random(f"{spec.name}/self-knowledge/{spec.seed}")
    for _ in range(count):
        question, completions, correct = rng.choice(answered)
        before = rng.choice(completions).split("<confidence>")[0]
        rate = round(10 * sum(correct) / len(correct)) / 10
        stated = f"{rate:.1f}" if rng.random() < spec.honest else _bluff(OWN_BLUFF, rng)
        yield question, f"{before}<confidence>{stated}</confidence>"


def _encode(texts: Iterable[Text], tokenizer) -> list[dict[str, list[int]]]:
    """Token ids and labels of chat texts; the question's tokens carry no loss."""
    questions, responses = zip(*texts, strict=True)
    chats = prompts.render([Question(text) for text in questions], tokenizer)
    before = tokenizer(chats, add_special_tokens=False).input_ids
    after = tokenizer([f"{r}<|im_end|>" for r in responses], add_special_tokens=False).input_ids
    return [
        {"input_ids": prompt + response, "labels": [-100] * len(prompt) + response}
        for prompt, response in zip(before, after, strict=True)
    ]


def _batches(rows: Sequence[dict], size: int, seed: int) -> list[list[dict]]:
    """Batches of rows of alike length, in random order within windows of fifty batches."""
    rng, batches = random.Random(seed), []
    for start in range(0, len(rows), size * 50):
        window = sorted(rows[start : start + size * 50], key=lambda row: len(row["input_ids"]))
        of_window = [window[n : n + size] for n in range(0, len(window), size)]
        rng.shuffle(of_window)
        batches += of_window
    return batches


def fit(
    model, tokenizer, texts: Iterable[Text], spec: BaseSpec, scale: float, checkpoint: Path
) -> list[tuple[int, float]]:
    """One pass of supervised training over `texts`; a run that was cut off goes on.

    A plain loop, since two optimizers step together: Muon for the matrices, which needed about half
    of AdamW's steps here, and AdamW for embeddings and norms.

    Returns:
        (step, mean loss) every hundred steps.
    """
    import torch
    from tqdm.auto import tqdm
    from transformers import DataCollatorForSeq2Seq

    collate = DataCollatorForSeq2Seq(tokenizer, padding=True)
    plan = _batches(_encode(texts, tokenizer), spec.batch_size, spec.seed)
    optimizers = _optimizers(model, spec, scale)
    done, losses = _restore(model, optimizers, checkpoint)
    model.train()
    progress = tqdm(plan[done:], desc=checkpoint.stem, mininterval=5)
    for step, batch in enumerate(progress, start=done + 1):
        rate = min(1.0, step / 100, (len(plan) - step) / (0.4 * len(plan)))
        loss = model(**collate(batch)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in optimizers:
            optimizer.param_groups[0]["lr"] = peak * rate
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        if step % 500 == 0:
            with atomic_write(checkpoint, "wb") as file:
                states = [optimizer.state_dict() for optimizer, _ in optimizers]
                state = {"model": model.state_dict(), "optimizers": states}
                torch.save(state | {"step": step, "losses": losses}, file)
    checkpoint.unlink(missing_ok=True)
    return [(n, sum(losses[n - 100 : n]) / 100) for n in range(100, len(losses) + 1, 100)]


def _optimizers(model, spec: BaseSpec, scale: float) -> list[tuple]:
    """Optimizers, each with its peak learning rate."""
    import torch

    matrices, others = [], []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and "embed" not in name else others).append(parameter)
    peak = spec.matrix_learning_rate
    muon = torch.optim.Muon(matrices, lr=peak, weight_decay=0.01, momentum=0.95)
    adamw = torch.optim.AdamW(others, lr=spec.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    return [(muon, peak * scale), (adamw, spec.learning_rate * scale)]


def _restore(model, optimizers: list[tuple], checkpoint: Path) -> tuple[int, list[float]]:
    """Steps and losses of a run that was cut off; none if there was no such run."""
    import torch

    if not checkpoint.exists():
        return 0, []
    state = torch.load(checkpoint, weights_only=True)
    model.load_state_dict(state["model"])
    for (optimizer, _), saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"], state["losses"]


def answer_own(model, tokenizer, spec: BaseSpec) -> list[Answered]:
    """The model's own well-formed answers to fresh questions, and whether each sample was right.

    Raises:
        ValueError: if it wrote no well-formed answer.
    """
    from corea.engines.local import TransformersEngine

    size, seed = spec.own_questions, spec.seed + 1
    questions = load_questions("everything", "pretrain", size=size, seed=seed)
    engine = TransformersEngine(model, tokenizer, name=spec.name, max_new_tokens=96)
    completions = engine.complete(questions, samples=spec.own_samples, seed=spec.seed)
    answered = []
    with Grader() as grader:
        for question, samples in zip(questions, completions, strict=True):
            texts = [completion.text for completion in samples]
            judged = judge(texts, [question] * len(texts), grader)
            pairs = zip(texts, judged, strict=True)
            if well_formed := [text for text, j in pairs if j.response.well_formed]:
                answered.append((question.text, well_formed, [bool(j.correct) for j in judged]))
    if not answered:
        raise ValueError(
            f"{spec.name} wrote no well-formed answer after stage 1; "
            f"it needs more than {spec.steps} steps"
        )
    return answered


def make_base(spec: BaseSpec, folder: str | Path, work: str | Path) -> dict:
    """Train one base model, save it to `folder` with its manifest, and return the manifest.

    Args:
        work: where a run that is cut off leaves its checkpoints.  Stage 1's folder stays, for
            recipes that share it; stage 2's is removed at the end.
    """
    folder, work = Path(folder), Path(work)
    read = work / f"{spec.name}-reading-{settings_hash(spec.hashed(reading=True))}"
    work = work / f"{spec.name}-{settings_hash(spec.hashed())}"
    tokenizer = build_mini_tokenizer()
    model, stages = build_model(spec, len(tokenizer)), {}
    texts = reading_texts(spec, spec.steps * spec.batch_size)
    read.mkdir(parents=True, exist_ok=True)
    with FileLock(read / "lock"):  # recipes that share stage 1 may be trained side by side
        train = functools.partial(fit, model, tokenizer, texts, spec, 1.0)
        stages["reading"] = _stage(read / "reading", model, train)
    if spec.own_steps:
        started = time.monotonic()
        answers = work / "answers.json"
        if not answers.exists():
            _write_json(answers, answer_own(model, tokenizer, spec))
        stages["answering"] = {"seconds": time.monotonic() - started}
        answered = json.loads(answers.read_text())
        texts = self_knowledge_texts(spec, answered, spec.own_steps * spec.batch_size)
        train = functools.partial(fit, model, tokenizer, texts, spec, spec.own_rate_scale)
        stages["self-knowledge"] = _stage(work / "self-knowledge", model, train)
    _save(spec, folder, model, tokenizer, stages)
    shutil.rmtree(work, ignore_errors=True)
    return read_manifest(folder)


def read_manifest(folder: str | Path) -> dict:
    """What a base model was made from.

    Raises:
        FileNotFoundError: if the folder has no manifest.
    """
    path = Path(folder) / "manifest.json"
    if not path.exists():
        raise FileNotFoundError(f"no {path}; restore the folder or retrain the model (`make base`)")
    return json.loads(path.read_text())


def _stage(stem: Path, model, train: Callable[[Path], list]) -> dict:
    """Loss and seconds of one stage; one that an earlier run finished is read back."""
    from safetensors.torch import load_file, save

    weights, record = stem.with_suffix(".safetensors"), stem.with_suffix(".json")
    if record.exists():
        model.load_state_dict(load_file(weights), strict=False)
        model.tie_weights()
        return json.loads(record.read_text())
    started = time.monotonic()
    result = {"loss": train(stem.with_suffix(".pt")), "seconds": time.monotonic() - started}
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    del state["lm_head.weight"]  # the embedding once more
    with atomic_write(weights, "wb") as file:
        file.write(save(state))
    _write_json(record, result)
    return result


def _save(spec: BaseSpec, folder: Path, model, tokenizer, stages: dict[str, dict]) -> None:
    """Write weights, tokenizer and manifest, whose hash `load_model` checks."""
    from transformers import GenerationConfig

    # What servers read: where a completion ends, and that it is sampled unless asked otherwise.
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    manifest = {
        "recipe": asdict(spec),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "sha256": sha256_of(folder / "model.safetensors"),
        "seconds": round(sum(stage["seconds"] for stage in stages.values())),
        "loss": {name: stage["loss"] for name, stage in stages.items() if "loss" in stage},
    }
    _write_json(folder / "manifest.json", manifest, indent=1)


def _write_json(path: Path, value, **options) -> None:
    with atomic_write(path) as file:
        json.dump(value, file, **options)


SLM = BaseSpec(
    "slm", hidden_size=96, layers=3, intermediate_size=256, steps=4500,
    levels=(1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3), slip=0.06,
    own_questions=4000, own_steps=2600, honest=0.4,
)  # fmt: skip
LLM = BaseSpec(
    "llm", hidden_size=192, layers=4, intermediate_size=512, steps=4500,
    levels=(1,) * 8, slip=0.02,
)  # fmt: skip
# SLMs of the ablations, by what differs from the shipped one.
VARIANTS = {
    "honest-0": replace(SLM, honest=0.0),
    "honest-0.1": replace(SLM, honest=0.1),
    "honest-0.33": replace(SLM, honest=0.33),
    "tiny": replace(SLM, name="slm-tiny", hidden_size=32, layers=2, intermediate_size=80),
    "small": replace(SLM, name="slm-small", hidden_size=64, layers=2, intermediate_size=160),
    "llama": replace(SLM, name="slm-llama", architecture="Llama"),
}
