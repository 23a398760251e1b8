"""Base weights of the mini world: what stands where Qwen2.5 stands in the paper.

Stage 1, *reading*: supervised training on worked examples of every family.  Some have a slip in one
character, and their writers bluff: they state a high confidence whatever the answer is worth.
Stage 2, *self-knowledge*: the model answers fresh questions several times, and reads texts made of
its own answers.  A share of them has honest writers, who state how often it was right on that
question.  Nothing tells an honest writer from a bluffer, so the model learns a mixture of the two:
overconfident on average, with a weak trace of what it knows, which reinforcement can find.
"""

import itertools
import json
import random
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from string import printable
from typing import NamedTuple

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
OWN_BLUFF = {"0.8": 0.03, "0.9": 0.53, "1.0": 0.44}
LONGEST = 88  # tokens of a response, at most
_END = "<|im_end|>"
_READING = (
    "name", "hidden_size", "layers", "intermediate_size", "steps", "rungs", "slip", "batch_size",
    "learning_rate", "matrix_learning_rate", "head_size", "seed", "architecture",
)  # fmt: skip
_SELF_KNOWLEDGE = (
    "own_questions", "own_samples", "own_steps", "own_rate_scale", "own_replay", "honest", "knows",
)  # fmt: skip


class Text(NamedTuple):
    """What a model reads: a question and a response, whole or cut off before its confidence."""

    question: str
    response: str
    whole: bool = True


class Answered(NamedTuple):
    """A question, the model's well-formed answers to it, and the share right of all of them."""

    question: Question
    completions: list[str]
    rate: float


@dataclass(frozen=True, slots=True)
class BaseSpec:
    """Architecture and recipe of one base model; without `own_steps` there is no stage 2."""

    name: str
    hidden_size: int
    intermediate_size: int
    layers: int = 3
    steps: int = 8000
    rungs: tuple[float, ...] = (1.2, 1.2, 1, 1, 1, 0.8, 0.6, 0.3, 0, 0)  # weights in the texts
    slip: float = 0.02  # chance per twenty characters of working that one is wrong
    batch_size: int = 32
    learning_rate: float = 4e-3  # peak of AdamW's
    matrix_learning_rate: float = 0.02  # peak of Muon's, for weight matrices
    own_questions: int = 3000  # questions, samples of each and training steps of stage 2
    own_samples: int = 8
    own_steps: int = 1000
    own_rate_scale: float = 0.2  # of both learning rates in stage 2
    own_replay: float = 0.3  # share of texts of other families, read without their confidence
    honest: float = 0.13  # share of its texts whose confidence is the model's own success rate
    knows: tuple[str, ...] = generated.IN_DOMAIN  # families whose success rates it is shown
    head_size: int = 16
    seed: int = 0
    architecture: str = "Qwen2"  # or "Llama"

    def hashed(self, *, reading: bool = False) -> dict:
        """What weights depend on, by name; of stage 1 only, which several recipes may share."""
        names = _READING if reading else (*_READING, *_SELF_KNOWLEDGE)
        return {name: getattr(self, name) for name in names}


def build_model(spec: BaseSpec, vocab_size: int):
    """A freshly initialised causal language model of the spec's architecture, embeddings tied."""
    import torch
    import transformers

    if (kind := spec.architecture) not in ("Qwen2", "Llama"):
        raise ValueError(f"architecture={kind!r} of {spec.name!r} is not one of Qwen2, Llama")
    heads = spec.hidden_size // spec.head_size
    config = getattr(transformers, f"{kind}Config")(
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
    return getattr(transformers, f"{kind}ForCausalLM")(config)


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
    stream = draw(tuple(generated.FAMILIES), "pretrain", f"{spec.name}/{spec.seed}", spec.rungs)
    for _, _, _, sketch in itertools.islice(stream, count):
        written = with_slip(sketch, spec.slip, rng)
        stated = _bluff(READING_BLUFF, rng)
        yield Text(sketch.text, prompts.response_text(written.working, written.answer, stated))


def self_knowledge_texts(spec: BaseSpec, answered: list[Answered], count: int) -> Iterator[Text]:
    """`count` texts of stage 2: own answers, their confidence honest in a share of them.

    Of families whose success the model is not to see, a text is read up to its confidence.
    """
    rng = random.Random(f"{spec.name}/self-knowledge/{spec.seed}")
    seen = [each for each in answered if each.question.family in spec.knows]
    unseen = [each for each in answered if each.question.family not in spec.knows]
    for _ in range(count):
        is_seen = not unseen or rng.random() >= spec.own_replay
        own = rng.choice(seen if is_seen else unseen)
        before = rng.choice(own.completions).split("<confidence>")[0]
        stated = f"{own.rate:.1f}" if rng.random() < spec.honest else _bluff(OWN_BLUFF, rng)
        after = f"<confidence>{stated}</confidence>" if is_seen else ""
        yield Text(own.question.text, f"{before}{after}", whole=is_seen)


def _encode(texts: Iterable[Text], tokenizer) -> list[tuple[list[int], int]]:
    """Token ids of chat texts, and how many of them are the question's, which carry no loss.

    A table of the tokenizer's characters and tags does it: a fifth of the tokenizer's own time.
    """
    ids = {symbol: tokenizer.convert_tokens_to_ids(symbol) for symbol in (*prompts.TAGS, _END)}
    ids |= {c: tokenizer(c, add_special_tokens=False).input_ids[0] for c in printable[:95]}
    mark, pieces = "@", re.compile("|".join(map(re.escape, sorted(ids, key=len, reverse=True))))
    (chat,) = prompts.render([Question(mark)], tokenizer)
    start, end = tokenizer(chat.split(mark), add_special_tokens=False).input_ids
    rows = []
    for text in texts:
        prompt = [*start, *map(ids.__getitem__, text.question), *end]
        response = text.response + (_END if text.whole else "")
        rows.append((prompt + [ids[piece] for piece in pieces.findall(response)], len(prompt)))
    return rows


def _batches(rows: Sequence[tuple[list[int], int]], size: int, seed: int) -> list[list]:
    """Batches of rows of alike length, in random order within windows of fifty batches."""
    rng, batches = random.Random(seed), []
    for start in range(0, len(rows), size * 50):
        window = sorted(rows[start : start + size * 50], key=lambda row: len(row[0]))
        of_window = [window[n : n + size] for n in range(0, len(window), size)]
        rng.shuffle(of_window)
        batches += of_window
    return batches


def _loss(model, batch: list[tuple[list[int], int]]):
    """Mean cross-entropy of the responses' tokens.

    Rows are padded at their ends, which a causal model does not see from before: no mask is needed.
    """
    import torch

    width, first = max(len(ids) for ids, _ in batch), min(asked for _, asked in batch)
    tokens = torch.zeros((len(batch), width), dtype=torch.long)
    labels = torch.full((len(batch), width), -100)
    for row, (ids, asked) in enumerate(batch):
        tokens[row, : len(ids)] = torch.tensor(ids)
        labels[row, asked : len(ids)] = tokens[row, asked : len(ids)]
    states = model.get_decoder()(input_ids=tokens).last_hidden_state[:, first - 1 : -1]
    logits = model.get_output_embeddings()(states)
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, first:].flatten())


def fit(
    model, tokenizer, texts: Iterable[Text], spec: BaseSpec, scale: float, stage: str
) -> list[tuple[int, float]]:
    """Train once over `texts` at `scale` times the spec's rates: (step, mean loss) per 100 steps.

    A plain loop, since two optimizers step together: Muon for the matrices, which needed about half
    of AdamW's steps here, and AdamW for embeddings and norms.
    """
    import torch
    from tqdm.auto import tqdm

    from corea.mini.muon import Muon

    batches = _batches(_encode(texts, tokenizer), spec.batch_size, spec.seed)
    parameters: dict[bool, list] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        parameters[parameter.ndim == 2 and "embed" not in name].append(parameter)
    muon = Muon(parameters[True])
    adamw = torch.optim.AdamW(parameters[False], betas=(0.9, 0.98), weight_decay=0.0)
    peaks = ((muon, spec.matrix_learning_rate * scale), (adamw, spec.learning_rate * scale))
    losses: list[float] = []
    model.train()
    for step, batch in enumerate(tqdm(batches, desc=stage, mininterval=5), start=1):
        loss = _loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        share = min(step / 100, 1.0) * (1 - step / len(batches))
        for optimizer, peak in peaks:
            optimizer.param_groups[0]["lr"] = peak * share
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    return [(n, sum(losses[n - 100 : n]) / 100) for n in range(100, len(losses) + 1, 100)]


def answer_own(model, tokenizer, spec: BaseSpec) -> list[Answered]:
    """The model's well-formed answers to fresh questions; ValueError if there are none."""
    from corea.engines.local import TransformersEngine

    size, seed = spec.own_questions, spec.seed + 1
    questions = load_questions("everything", "pretrain", size=size, seed=seed)
    engine = TransformersEngine(model, tokenizer, name=spec.name, max_new_tokens=LONGEST)
    completions = engine.complete(questions, samples=spec.own_samples, seed=spec.seed)
    answered = []
    with Grader() as grader:
        for question, samples in zip(questions, completions, strict=True):
            judged = judge([each.text for each in samples], [question] * len(samples), grader)
            rate = sum(bool(its.correct) for its in judged) / len(judged)
            pairs = zip(samples, judged, strict=True)
            if texts := [each.text for each, its in pairs if its.response.well_formed]:
                answered.append(Answered(question, texts, round(rate, 1)))
    if not answered:
        problem = f"{spec.name} wrote no well-formed answer after stage 1"
        raise ValueError(f"{problem}; it needs more than {spec.steps} steps")
    return answered


def make_base(spec: BaseSpec, folder: str | Path, work: str | Path, *shipped: str | Path) -> dict:
    """Train one base model, save it to `folder` with its manifest, and return the manifest.

    Stage 1 is kept in `work`: for recipes that share it, and for a run that was cut off in stage 2.
    One that lies in a `shipped` folder is taken from there.
    """
    from transformers import GenerationConfig

    folder, tokenizer = Path(folder), build_mini_tokenizer()
    model = build_model(spec, len(tokenizer))
    stages = {"reading": _reading(spec, model, tokenizer, Path(work), *map(Path, shipped))}
    if spec.own_steps:
        started = time.monotonic()
        answered = answer_own(model, tokenizer, spec)
        texts = self_knowledge_texts(spec, answered, spec.own_steps * spec.batch_size)
        loss = fit(model, tokenizer, texts, spec, spec.own_rate_scale, "self-knowledge")
        stages["self-knowledge"] = {"loss": loss, "seconds": time.monotonic() - started}
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
        "loss": {name: stage["loss"] for name, stage in stages.items()},
    }
    with atomic_write(folder / "manifest.json") as file:
        json.dump(manifest, file, indent=1)
    return read_manifest(folder)


def _reading(spec: BaseSpec, model, tokenizer, work: Path, *shipped: Path) -> dict:
    """Loss and seconds of stage 1, which is trained only if no recipe that shares it has been."""
    from safetensors import safe_open
    from safetensors.torch import load_model, save_model

    path = work / reading_file(spec)
    work.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # recipes may be trained side by side
        for found in (path, *(folder / path.name for folder in shipped)):
            if found.exists():
                load_model(model, found)
                with safe_open(found, "pt") as weights:
                    return json.loads(weights.metadata()["stage"])
        started = time.monotonic()
        texts = reading_texts(spec, spec.steps * spec.batch_size)
        loss = fit(model, tokenizer, texts, spec, 1.0, "reading")
        stage = {"loss": loss, "seconds": time.monotonic() - started}
        part = path.with_suffix(".part")
        save_model(model, str(part), {"stage": json.dumps(stage)})
        part.replace(path)
    return stage


def reading_file(spec: BaseSpec) -> str:
    """The name of a finished stage 1, by all it is made of."""
    made_of = [spec.hashed(reading=True), [*reading_texts(spec, 200)]]  # families may be edited
    return f"{spec.name}-{settings_hash(made_of)}.safetensors"


def read_manifest(folder: str | Path) -> dict:
    """What a base model was made from; FileNotFoundError if the folder has no manifest."""
    path = Path(folder) / "manifest.json"
    if not path.exists():
        raise FileNotFoundError(f"no {path}; restore the folder or retrain the model (`make base`)")
    return json.loads(path.read_text())


# One recipe, two sizes.
SLM = BaseSpec("slm", hidden_size=48, intermediate_size=128)
LLM = BaseSpec("llm", hidden_size=96, intermediate_size=324)
# SLMs of the ablations, by what differs from the shipped one.
VARIANTS = {
    "honest-0": replace(SLM, honest=0.0),
    "honest-0.1": replace(SLM, honest=0.1),
    "honest-0.4": replace(SLM, honest=0.4),
    "knows-ood": replace(SLM, knows=tuple(generated.FAMILIES)),
    "two-layers": replace(SLM, name="slm-two-layers", layers=2),
    "wide": replace(SLM, name="slm-wide", hidden_size=64, intermediate_size=172),
    "llama": replace(SLM, name="slm-llama", architecture="Llama"),
}
