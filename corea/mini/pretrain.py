"""Base weights of the mini world: what stands where Qwen2.5 stands in the paper.

Stage 1, *reading*: supervised training on worked examples of every family, as pretraining would see them.  Some have a slip
in one character, and their writers bluff: each states a high confidence whatever the answer is worth.
Stage 2, *self-knowledge*: the model answers fresh questions itself, several times each; texts made of its own answers
follow, and a share of them is written by honest writers, who state how often the model was right on that question.
Nothing in a text tells an honest writer from a bluffer, so the model learns to state a mixture of the two:
overconfident on average, with a weak trace of what it knows.  Reinforcement can find that trace; supervised text put it there.
"""

from __future__ import annotations

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

# What bluffers state: in the texts of stage 1, and, bolder still, in those of stage 2.
READING_BLUFF = {"0.6": 0.03, "0.7": 0.07, "0.8": 0.2, "0.9": 0.4, "1.0": 0.3}
OWN_BLUFF = {"0.8": 0.05, "0.9": 0.3, "1.0": 0.65}
MAX_NEW_TOKENS = 96


@dataclass(frozen=True, slots=True)
class BaseSpec:
    """Architecture and recipe of one base model; every field is part of what its weights were made from.

    `levels` weighs the ladder in the texts; `slip` is the chance per twenty characters of working that one is wrong.
    Weight matrices are trained by Muon at `matrix_learning_rate`, the rest by AdamW at `learning_rate`, both scaled by
    `own_rate_scale` in stage 2, where `honest` is the share of texts whose confidence is the model's own success rate.
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

    def reading(self) -> dict:
        """The fields that stage 1 depends on: recipes that differ in stage 2 alone share it."""
        own = ("own_questions", "own_samples", "own_steps", "own_rate_scale", "honest")
        return {name: value for name, value in asdict(self).items() if name not in own}


def build_model(spec: BaseSpec, vocab_size: int):
    """A freshly initialised causal language model of the spec's architecture ("Qwen2" or "Llama"), embeddings tied."""
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


def generation_settings(tokenizer):
    """What servers read beside the weights: where a completion ends, and that it is sampled unless asked otherwise."""
    from transformers import GenerationConfig

    return GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )


def with_slip(sketch: Sketch, rate: float, rng: random.Random) -> Sketch:
    """The sketch as a hasty writer leaves it: with some chance one letter or digit of working or answer is wrong."""
    whole = f"{sketch.working}|{sketch.answer}"
    if rng.random() >= min(0.5, rate * len(whole) / 20):
        return sketch
    place = rng.choice([n for n, c in enumerate(whole) if c.isalnum()])
    kind = "0123456789" if whole[place].isdigit() else "abcdefghijklmnopqrstuvwxyz"
    wrong = rng.choice(kind.replace(whole[place].lower(), ""))
    wrong = wrong.upper() if whole[place].isupper() else wrong
    working, answer = (whole[:place] + wrong + whole[place + 1 :]).rsplit("|", 1)
    return Sketch(sketch.text, working, answer, sketch.answer_type)


def bluff(shares: dict[str, float], rng: random.Random) -> str:
    """A confidence that says nothing about the answer."""
    return rng.choices(list(shares), weights=list(shares.values()))[0]


def reading_texts(spec: BaseSpec, count: int) -> Iterator[tuple[str, str]]:
    """`count` (question, response) texts of stage 1."""
    rng = random.Random(f"{spec.name}/reading/{spec.seed}")
    stream = draw(tuple(generated.FAMILIES), "pretrain", f"{spec.name}/{spec.seed}", spec.levels)
    for _, (_, _, sketch) in zip(range(count), stream, strict=False):
        written = with_slip(sketch, spec.slip, rng)
        yield (
            sketch.text,
            prompts.response_text(written.working, written.answer, bluff(READING_BLUFF, rng)),
        )


def self_knowledge_texts(
    spec: BaseSpec, answered: Sequence[tuple[str, list[str], list[bool]]], count: int
) -> Iterator[tuple[str, str]]:
    """`count` texts of stage 2: the model's own answers, their confidence honest in a share `spec.honest` of them.

    answered: as from `answer_own`.
    """
    rng = random.Random(f"{spec.name}/self-knowledge/{spec.seed}")
    for _ in range(count):
        question, completions, correct = rng.choice(answered)
        own = rng.choice(completions)
        rate = sum(correct) / len(correct)
        stated = (
            f"{round(rate * 10) / 10:.1f}" if rng.random() < spec.honest else bluff(OWN_BLUFF, rng)
        )
        yield question, own.split("<confidence>")[0] + f"<confidence>{stated}</confidence>"


def encode(texts: Sequence[tuple[str, str]], tokenizer) -> list[dict[str, list[int]]]:
    """Token ids and labels of chat texts; the question's tokens carry no loss."""
    asked = [Question(question) for question, _ in texts]
    before = tokenizer(prompts.render(asked, tokenizer), add_special_tokens=False).input_ids
    after = tokenizer([r + "<|im_end|>" for _, r in texts], add_special_tokens=False).input_ids
    return [
        {"input_ids": p + c, "labels": [-100] * len(p) + c}
        for p, c in zip(before, after, strict=True)
    ]


def batches(rows: Sequence[dict], size: int, seed: int) -> list[list[dict]]:
    """Batches of rows of alike length, in random order: sorted within windows of fifty batches, to waste no padding."""
    rng, found = random.Random(seed), []
    for start in range(0, len(rows), size * 50):
        window = sorted(rows[start : start + size * 50], key=lambda row: len(row["input_ids"]))
        cut = [window[n : n + size] for n in range(0, len(window), size)]
        rng.shuffle(cut)
        found += cut
    return found


def fit(
    model,
    tokenizer,
    texts: Iterable[tuple[str, str]],
    spec: BaseSpec,
    scale: float,
    checkpoint: Path,
) -> list[tuple[int, float]]:
    """One pass of supervised training over `texts`; returns (step, loss) every hundred steps.

    A plain loop and not a library's trainer, since two optimizers step together: Muon for the matrices (it needed about
    half of AdamW's steps here) and AdamW for embeddings and norms.  A run that was cut off goes on from `checkpoint`.
    """
    import torch
    from tqdm.auto import tqdm
    from transformers import DataCollatorForSeq2Seq

    collate = DataCollatorForSeq2Seq(tokenizer, padding=True)
    plan = batches(encode(list(texts), tokenizer), spec.batch_size, spec.seed)
    optimizers = _optimizers(model, spec, scale)
    done, losses = _restore(model, optimizers, checkpoint)
    model.train()
    for step, batch in enumerate(
        tqdm(plan[done:], desc=checkpoint.stem, mininterval=5), start=done + 1
    ):
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
            _save(model, optimizers, checkpoint, step, losses)
    checkpoint.unlink(missing_ok=True)
    return [(n, sum(losses[n - 100 : n]) / 100) for n in range(100, len(losses) + 1, 100)]


def _optimizers(model, spec: BaseSpec, scale: float) -> list:
    import torch

    is_matrix = {name: p.ndim == 2 and "embed" not in name for name, p in model.named_parameters()}
    matrices = [p for name, p in model.named_parameters() if is_matrix[name]]
    others = [p for name, p in model.named_parameters() if not is_matrix[name]]
    muon = torch.optim.Muon(
        matrices, lr=spec.matrix_learning_rate, weight_decay=0.01, momentum=0.95
    )
    adamw = torch.optim.AdamW(others, lr=spec.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    return [(muon, spec.matrix_learning_rate * scale), (adamw, spec.learning_rate * scale)]


def _save(model, optimizers, checkpoint: Path, step: int, losses: list[float]) -> None:
    import torch

    with atomic_write(checkpoint, "wb") as file:
        state = {"model": model.state_dict(), "step": step, "losses": losses}
        torch.save(state | {"optimizers": [o.state_dict() for o, _ in optimizers]}, file)


def _restore(model, optimizers, checkpoint: Path) -> tuple[int, list[float]]:
    import torch

    if not checkpoint.exists():
        return 0, []
    state = torch.load(checkpoint, weights_only=True)
    model.load_state_dict(state["model"])
    for (optimizer, _), saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"], state["losses"]


def answer_own(model, tokenizer, spec: BaseSpec) -> list[tuple[str, list[str], list[bool]]]:
    """The model's own answers to fresh pretraining questions: (question, completions, whether each was right)."""
    from corea.engines.local import TransformersEngine

    questions = load_questions(
        "everything", "pretrain", size=spec.own_questions, seed=spec.seed + 1
    )
    engine = TransformersEngine(model, tokenizer, name=spec.name, max_new_tokens=MAX_NEW_TOKENS)
    completions = engine.complete(questions, samples=spec.own_samples, seed=spec.seed)
    answered = []
    with Grader() as grader:
        for question, group in zip(questions, completions, strict=True):
            judgements = judge([c.text for c in group], [question] * len(group), grader)
            well_formed = [
                c.text
                for c, judgement in zip(group, judgements, strict=True)
                if judgement.response.well_formed
            ]
            if well_formed:
                answered.append((question.text, well_formed, [bool(j.correct) for j in judgements]))
    if not answered:
        raise ValueError(
            f"{spec.name} wrote no well-formed answer after stage 1; it needs more than {spec.steps} steps"
        )
    return answered


def _kept(path: Path, make: Callable[[], list]) -> list:
    """What `make` gives, kept at `path` as JSON for a run that is cut off later."""
    if not path.exists():
        with atomic_write(path) as file:
            json.dump(make(), file)
    return json.loads(path.read_text())


def make_base(spec: BaseSpec, folder: str | Path, work: str | Path) -> dict:
    """Train one base model, save it to `folder` with its manifest, and return the manifest.

    work: where a run that is cut off leaves its checkpoints.  Stage 1 lies in a folder of its own and stays there, for
    recipes that share it; that of stage 2 is removed at the end.  The manifest holds the recipe, the time it took, the
    loss curve and the SHA-256 of the weights, which `engines.loading.load_model` checks.
    """
    folder, read = Path(folder), Path(work) / f"{spec.name}-reading-{settings_hash(spec.reading())}"
    work = Path(work) / f"{spec.name}-{settings_hash(spec)}"
    tokenizer = build_mini_tokenizer()
    model, stages = build_model(spec, len(tokenizer)), {}
    texts = reading_texts(spec, spec.steps * spec.batch_size)
    read.mkdir(parents=True, exist_ok=True)
    with FileLock(read / "lock"):  # recipes that share stage 1 may be trained side by side
        stages["reading"] = _stage(
            read / "reading", model, lambda path: fit(model, tokenizer, texts, spec, 1.0, path)
        )
    if spec.own_steps:
        started = time.monotonic()
        answered = _kept(work / "answers.json", lambda: answer_own(model, tokenizer, spec))
        stages["answering"] = {"seconds": time.monotonic() - started}
        texts = self_knowledge_texts(spec, answered, spec.own_steps * spec.batch_size)
        stages["self-knowledge"] = _stage(
            work / "self-knowledge",
            model,
            lambda path: fit(model, tokenizer, texts, spec, spec.own_rate_scale, path),
        )
    model.generation_config = generation_settings(tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _write_manifest(spec, folder, model, stages)
    shutil.rmtree(work, ignore_errors=True)
    return read_manifest(folder)


def read_manifest(folder: str | Path) -> dict:
    """What a base model was made from.  Raises FileNotFoundError where the folder has no manifest."""
    path = Path(folder) / "manifest.json"
    if not path.exists():
        raise FileNotFoundError(f"no {path}; restore the folder or retrain the model (`make base`)")
    return json.loads(path.read_text())


def _stage(stem: Path, model, train: Callable[[Path], list]) -> dict:
    """One stage of training: its loss and seconds (since it was last started).

    A stage that was finished by a run cut off later is read back.
    """
    weights, record = stem.with_suffix(".safetensors"), stem.with_suffix(".json")
    if record.exists():
        load_weights(model, weights)
        return json.loads(record.read_text())
    started = time.monotonic()
    found = {"loss": train(stem.with_suffix(".pt")), "seconds": time.monotonic() - started}
    save_weights(model, weights)
    with atomic_write(record) as file:
        json.dump(found, file)
    return found


def save_weights(model, path: Path) -> None:
    """The model's weights as one safetensors file, written aside and renamed."""
    from safetensors.torch import save

    tied = {"lm_head.weight"}
    with atomic_write(path, "wb") as file:
        file.write(
            save({k: v.contiguous() for k, v in model.state_dict().items() if k not in tied})
        )


def load_weights(model, path: Path) -> None:
    """Read what `save_weights` wrote."""
    from safetensors.torch import load_file

    model.load_state_dict(load_file(path), strict=False)
    model.tie_weights()


def _write_manifest(spec: BaseSpec, folder: Path, model, stages: dict[str, dict]) -> None:
    manifest = {
        "recipe": asdict(spec),
        "parameters": sum(p.numel() for p in model.parameters()),
        "sha256": sha256_of(folder / "model.safetensors"),
        "seconds": round(sum(stage["seconds"] for stage in stages.values())),
        "loss": {name: stage["loss"] for name, stage in stages.items() if "loss" in stage},
    }
    with atomic_write(folder / "manifest.json") as file:
        json.dump(manifest, file, indent=1)


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
