"""What a run would take, before any money is spent: `make plan PROFILE=paper`.

Tokens, memory, disk, hours and money are worked out from the profile and the sizes of its models; none is loaded.  What has to
be taken for granted stands in `Assumptions`, each with its reason, and is printed with the result.  For models on the CPU two
speeds were measured (`python -m tests.measure`), and the estimates are checked against what other stages really took.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from corea.costs import PriceList
from corea.paper import variants
from corea.paper.profiles import ROOT, SYSTEMS, TRAINED, Profile, load_profile
from corea.questions.base import CALIBRATION, group_of, test_datasets
from corea.questions.hub import SETS
from corea.support.hardware import Compute
from corea.support.models import Architecture, architecture_of

GIB = 2**30
MEASURED = ROOT / "data" / "reference" / "cpu" / "measured.json"
WIDTH = 100
_BYTES = {"float32": 4, "bfloat16": 2}
_ADAM = 8  # two float32 moments a trained number
# TRL 1.16 computes logits in tiles of this many tokens and words, in float32: the tile, its log-softmax, its gradient.
_TILE_TOKENS, _TILE_WORDS, _TILE_COPIES = 4096, 32768, 3
_LENGTHS = ("prompt_tokens", "completion_tokens", "longest_prompt", "longest_completion")
_CHECKPOINTS = 3  # the two that are kept, and a third while it is being written


@dataclass(frozen=True, slots=True)
class Gpu:
    """A kind of GPU: peaks of dense bfloat16 FLOPs and of bytes of memory read, a second; price in US dollars an hour."""

    name: str
    memory_gib: float
    flops: float
    bandwidth: float
    price: float


GPUS = (
    Gpu("RTX 4090", 24, 165e12, 1.008e12, 0.40),
    Gpu("L40S", 48, 362e12, 0.864e12, 0.90),
    Gpu("H100 SXM", 80, 989e12, 3.35e12, 2.50),
)  # peaks and bandwidths: the maker's data sheets


def _assumed(default: float, why: str):
    return field(default=default, metadata={"why": why})


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What an estimate takes for granted; each can be given on the command line."""

    prompt_tokens: float = _assumed(250, "mean tokens of a prompt; instruction included")
    completion_tokens: float = _assumed(
        717, "mean tokens of a completion; for hub models .35 of max_new_tokens"
    )
    longest_prompt: float = _assumed(
        500, "tokens of the longest prompt among a step's rollouts, to which TRL pads all of them"
    )
    longest_completion: float = _assumed(
        2048, "the same for completions; for hub models max_completion_length: one reaches it"
    )
    train_share: float = _assumed(
        0.35, "of peak FLOPs in training (.42 to .56 in Korthikanti et al. 2022, arXiv 2205.05198)"
    )
    prefill_share: float = _assumed(
        0.4, "of peak FLOPs in reading prompts (.76 at best in Pope et al. 2022, arXiv 2211.05102)"
    )
    bandwidth_share: float = _assumed(
        0.5, "of peak bandwidth while sampling: sequences end at different times"
    )
    most_sequences: float = _assumed(256, "sequences that vLLM samples at once at most")
    transformers_share: float = _assumed(
        0.25, "speed of sampling by transformers, as a share of vLLM's"
    )
    reserve_share: float = _assumed(
        0.08, "of a GPU for CUDA's context, communication and fragmentation"
    )
    vllm_share: float = _assumed(0.9, "of a GPU that vLLM may fill when it is alone there")
    vllm_work_gib: float = _assumed(1.0, "vLLM's working memory beside weights and cache, GiB")
    process_gib: float = _assumed(
        0.6, "a Python process with torch and TRL loaded, before any model, GiB"
    )
    record_bytes: float = _assumed(
        4, "bytes a completion token takes in the records; English text has about 4 a token"
    )
    gpu_hour_price: float = _assumed(
        2.5, "US dollars, by the kind of GPU: a round number, no quote, Nov 2026"
    )
    llm_prompt_price: float = _assumed(
        0.8, "US dollars a million prompt tokens of a served LLM: round, no quote, Nov 2026"
    )
    llm_completion_price: float = _assumed(
        0.8, "the same for completion tokens; the SLM's prices follow by parameter count"
    )
    deferral: float = _assumed(0.4, "share of questions that the cascade passes to the LLM")


def assumptions_for(profile: Profile, **given: float) -> Assumptions:
    """The assumptions of a profile; lengths of mini models are read from the SLM's tracked records on the calibration split.

    given: values in place of these.  Raises ValueError for one that is out of range, and where the SLM's records are missing.
    """
    if profile.suite == "mini":
        found = _recorded("SLM", (CALIBRATION,))
        lengths = dict(zip(_LENGTHS, [*found.mean(), *found.max().astype(float)], strict=True))
    else:
        lengths = {
            "completion_tokens": 0.35 * profile.max_new_tokens,
            "longest_completion": profile.grpo.max_completion_length,
        }
    assumed = Assumptions(**{"gpu_hour_price": gpu_of(profile.compute).price, **lengths, **given})
    for name, value in dataclasses.asdict(assumed).items():
        _check_range(name, value)
    return assumed


def _check_range(name: str, value: float) -> None:
    may_be_0 = name.endswith(("_price", "_gib", "_bytes")) or name in ("deferral", "reserve_share")
    most = 1 if name.endswith("_share") or name == "deferral" else 1e9
    if not (0 <= value <= most) or (value == 0 and not may_be_0):
        least = "0 or more" if may_be_0 else "above 0"
        raise ValueError(
            f"--{name.replace('_', '-')}={value:g} must be {least} and at most {most:g}"
        )


def _recorded(system: str, datasets: Sequence[str]) -> pd.DataFrame:
    """Token counts of the tracked records of one system."""
    paths = [load_profile("cpu").reference().records_path(system, dataset) for dataset in datasets]
    if missing := [path for path in paths if not path.exists()]:
        raise ValueError(
            f"no tracked records at {missing[0]}; restore data/reference, or run `make paper` and `make reference`"
        )
    return pd.concat(
        [pd.read_parquet(path, columns=["prompt_tokens", "completion_tokens"]) for path in paths]
    )


# --- questions and tokens


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a run, or several alike.  Tokens are totals; seconds on `gpus` GPUs; the CPU counts as one."""

    name: str
    questions: int
    completions: int
    prompt_tokens: float
    completion_tokens: float
    gpus: int
    seconds: float


def stages(profile: Profile, assumed: Assumptions) -> list[Stage]:
    """The stages of `make paper`, in their order: every training run, every system's answers, the ablations it has."""
    trained = [_training(profile, assumed, f"train {system}", profile.grpo) for system in TRAINED]
    models = {system: profile.llm if system == "LLM" else profile.slm for system in SYSTEMS}
    answered = [
        _answers(profile, assumed, f"generate {system}", model, profile.samples)
        for system, model in models.items()
    ]
    return [*trained, *answered, *_ablations(profile, assumed, variants.IN_PAPER, "ablations")]


def other_ablations(profile: Profile, assumed: Assumptions) -> list[Stage]:
    """The stages that `make ablations` adds to those of `make paper`; the pretraining of other mini bases is not counted."""
    rest = [name for name in variants.variants_of(profile) if name not in variants.IN_PAPER]
    return _ablations(profile, assumed, rest, "more ablations")


def _ablations(
    profile: Profile, assumed: Assumptions, names: Sequence[str], label: str
) -> list[Stage]:
    trained, answered = [], []
    for name in names:
        chosen = variants.variant(profile, name)
        own = profile.replace(slm=chosen.base) if chosen.base in profile.backbones else profile
        trained.append(_training(own, assumed, name, chosen.settings(profile)))
        samples = profile.samples if chosen.full else min(variants.SAMPLES, profile.samples)
        answered += [_answers(own, assumed, name, own.slm, samples)] * (
            2 if chosen.base else 1
        )  # its base is asked too
    return [
        _sum(f"train {len(names)} {label}", trained),
        _sum(f"generate {len(names)} {label}", answered),
    ]


def _sum(name: str, parts: Sequence[Stage]) -> Stage:
    counted = ("questions", "completions", "prompt_tokens", "completion_tokens", "seconds")
    return Stage(
        name,
        gpus=parts[0].gpus,
        **{column: sum(getattr(part, column) for part in parts) for column in counted},
    )


def evaluation_sizes(profile: Profile) -> dict[str, int]:
    """Number of questions of the calibration split and of each test set of the profile's suite."""
    sizes = {CALIBRATION: profile.calibration_size}
    for dataset in test_datasets(profile.suite):
        size = profile.in_domain_size if group_of(dataset) == "in-domain" else profile.ood_size
        held = sys.maxsize if profile.suite == "mini" else SETS[dataset].rows
        sizes[dataset] = min(size or sys.maxsize, held)
    return sizes


def _training(profile: Profile, assumed: Assumptions, name: str, settings) -> Stage:
    """One GRPO run of the SLM."""
    asked = settings.steps * settings.questions_per_step
    counts = _counts(assumed, asked, asked * settings.num_generations)
    arch, compute = architecture_of(profile.slm), profile.compute
    padded = counts["completions"] * (assumed.longest_prompt + assumed.longest_completion)
    flops = arch.parameters * flops_per_token(compute, settings.beta) * padded
    if compute.use_cpu:
        return Stage(name, **counts, gpus=1, seconds=_cpu_seconds(arch, flops, counts))
    server = compute.rollouts == "server"
    engines = 1 if server else compute.gpus
    wanted = -(-settings.questions_per_step * settings.num_generations // engines)
    seconds = (
        _sampling_seconds(arch, compute, assumed, counts, wanted, _rollouts(profile, assumed)[-1])
        / engines
    )
    seconds += flops / (gpu_of(compute).flops * assumed.train_share * compute.gpus)
    return Stage(name, **counts, gpus=compute.gpus + server, seconds=seconds)


def _answers(profile: Profile, assumed: Assumptions, name: str, model: str, samples: int) -> Stage:
    """A model's answers to every evaluation question."""
    asked = sum(evaluation_sizes(profile).values())
    counts = _counts(assumed, asked, asked * samples)
    arch, compute = architecture_of(model), profile.compute
    if compute.use_cpu:
        return Stage(name, **counts, gpus=1, seconds=_cpu_seconds(arch, 0.0, counts))
    gpus, memory = compute.gpus_for(model), _answering(profile, assumed, name, model)
    seconds = _sampling_seconds(arch, compute, assumed, counts, counts["completions"], memory, gpus)
    return Stage(name, **counts, gpus=gpus, seconds=seconds)


def _counts(assumed: Assumptions, questions: int, completions: int) -> dict:
    return {"questions": questions, "completions": completions, "prompt_tokens": completions * assumed.prompt_tokens,
            "completion_tokens": completions * assumed.completion_tokens}  # fmt: skip


# --- time


def flops_per_token(compute: Compute, beta: float) -> float:
    """FLOPs of a training step for each token and parameter, its sampling left out.

    2 forward and 4 backward (Kaplan et al. 2020, arXiv 2001.08361), of which an adapter saves the frozen weights' 2; 2 to
    recompute activations; 2 for the reference model; 2 to score again what vLLM sampled, as TRL does.  Attention's own
    products are left out: under 5% at these lengths.
    """
    backward = 2 if compute.lora_rank else 4
    return (
        2
        + backward
        + 2 * compute.gradient_checkpointing
        + 2 * (beta > 0)
        + 2 * (compute.rollouts != "transformers")
    )


def gpu_of(compute: Compute) -> Gpu:
    """The smallest kind of GPU in `GPUS` with the memory asked for, or else the largest."""
    return next((gpu for gpu in GPUS if gpu.memory_gib >= compute.memory_gib), GPUS[-1])


def _sampling_seconds(
    arch: Architecture,
    compute: Compute,
    assumed: Assumptions,
    counts: dict,
    wanted: int,
    memory: Memory,
    gpus: int = 1,
) -> float:
    """Seconds in which one engine of `gpus` GPUs reads the prompts and samples the completions of `counts`.

    wanted: sequences that could be sampled at once; memory: of a GPU meanwhile.  A step of sampling reads the weights once
    and the keys and values of each sequence, or is held up by 2 FLOPs a parameter and token (Pope et al. 2022, arXiv
    2211.05102).
    """
    gpu, length = gpu_of(compute), assumed.prompt_tokens + assumed.completion_tokens
    at_once = max(
        1,
        min(
            wanted,
            assumed.most_sequences,
            memory.room * GIB * gpus // (length * arch.kv_bytes_per_token),
        ),
    )
    products = 2 * arch.parameters / (gpus * gpu.flops * assumed.prefill_share)
    read = 2 * arch.parameters + at_once * length * arch.kv_bytes_per_token
    step = max(read / (gpus * gpu.bandwidth * assumed.bandwidth_share), at_once * products)
    slow = assumed.transformers_share if "transformers" in (compute.rollouts, compute.engine) else 1
    return counts["prompt_tokens"] * products + counts["completion_tokens"] * step / at_once / slow


def cpu_speeds() -> tuple[float, float]:
    """(FLOPs a second of a forward pass, bytes of keys and values a second while sampling) on one core, both of the mini SLM.

    What its sampling took in `MEASURED` beyond the products' time goes to keys and values, which transformers reads and copies
    at each token.
    """
    arch, measured = architecture_of(load_profile("cpu").slm), load_measured()["stages"]
    forward, sampling = (measured[name] for name in ("forward SLM", "generate SLM"))
    speed = 2 * arch.parameters * forward["prompt_tokens"] / forward["seconds"]
    rest = (
        sampling["seconds"]
        - 2 * arch.parameters * (sampling["prompt_tokens"] + sampling["completion_tokens"]) / speed
    )
    if rest <= 0:
        raise ValueError(
            f"{MEASURED}: sampling took no longer than a forward pass; measure again (`python -m tests.measure`)"
        )
    return speed, _cache_bytes(arch, sampling) / rest


def _cache_bytes(arch: Architecture, counts: dict) -> float:
    """Bytes of float32 keys and values that stand before each sampled token, summed over tokens."""
    before = (counts["prompt_tokens"] + counts["completion_tokens"] / 2) / counts["completions"]
    return counts["completion_tokens"] * before * 2 * arch.kv_bytes_per_token


def _cpu_seconds(arch: Architecture, training_flops: float, counts: dict) -> float:
    """Seconds on one core: sampling, and training if any."""
    speed, cache = cpu_speeds()
    sampled = 2 * arch.parameters * (counts["prompt_tokens"] + counts["completion_tokens"])
    return (sampled + training_flops) / speed + _cache_bytes(arch, counts) / cache


def load_measured() -> dict:
    """The contents of `MEASURED`.  Raises ValueError where it is missing."""
    if not MEASURED.exists():
        raise ValueError(
            f"no measured run at {MEASURED}; make one (`python -m tests.measure`, two minutes)"
        )
    return json.loads(MEASURED.read_text())


# --- memory


@dataclass(frozen=True, slots=True)
class Memory:
    """What stands in memory at one moment, GiB by part, against the limit; None is no limit.

    each: GiB of keys and values of one longest sequence, where as many are sampled at once as there is room for.
    """

    name: str
    parts: dict[str, float]
    limit: float | None
    each: float = 0.0

    @property
    def total(self) -> float:
        """All parts, GiB."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether they stand within the limit."""
        return self.limit is None or self.total <= self.limit

    @property
    def room(self) -> float:
        """GiB for keys and values; without end where those of all sequences are among the parts."""
        return (
            math.inf if self.limit is None or not self.each else self.limit - self.total + self.each
        )

    @property
    def sequences(self) -> int | None:
        """How many longest sequences there is room for at once; None where that is not asked."""
        return int(self.room / self.each) if self.each and self.fits else None


def memories(profile: Profile, assumed: Assumptions) -> list[Memory]:
    """Memory of one GPU (of the process, on the CPU) at each moment that could be the fullest."""
    answering = [
        _answering(profile, assumed, name, model)
        for name, model in (("SLM", profile.slm), ("LLM", profile.llm))
    ]
    if profile.compute.use_cpu:
        return [_updating(profile, assumed), *answering]
    return [
        _updating(profile, assumed),
        *_rollouts(profile, assumed),
        *answering,
        _probing(profile, assumed),
    ]


def _of_process(
    compute: Compute, assumed: Assumptions, name: str, bytes_: dict[str, float]
) -> Memory:
    """Memory of a process of torch alone."""
    if compute.use_cpu:
        return Memory(name, _gib(bytes_) | {"process": assumed.process_gib}, None)
    return Memory(name, _gib(bytes_), compute.memory_gib * (1 - assumed.reserve_share))


def _of_vllm(
    assumed: Assumptions, name: str, arch: Architecture, length: float, limit: float, gpus: int = 1
) -> Memory:
    """Memory of vLLM on each of the GPUs that share a model; length: tokens of the longest sequence."""
    one = length * arch.kv_bytes_per_token / gpus
    parts = _gib({"weights": 2 * arch.parameters / gpus, "keys and values of one": one}) | {
        "work": assumed.vllm_work_gib
    }
    return Memory(name, parts, limit, one / GIB)


def _gib(bytes_: dict[str, float]) -> dict[str, float]:
    return {name: value / GIB for name, value in bytes_.items() if value}


def trained_parameters(profile: Profile) -> int:
    """Numbers that the optimizer changes: all of the SLM's, or its adapter's."""
    arch = architecture_of(profile.slm)
    return (
        arch.lora_parameters(profile.compute.lora_rank)
        if profile.compute.lora_rank
        else arch.parameters
    )


def _standing(profile: Profile) -> dict[str, float]:
    """Bytes on each GPU that stay through training: weights, optimizer, reference model."""
    arch, compute, trained = (
        architecture_of(profile.slm),
        profile.compute,
        trained_parameters(profile),
    )
    frozen = _BYTES[compute.dtype] * arch.parameters if compute.lora_rank else 0
    reference = 4 * arch.parameters if profile.grpo.beta > 0 and not compute.lora_rank else 0
    whole = {
        "weights": frozen + 4 * trained,
        "optimizer": _ADAM * trained,
        "reference model": reference,
    }
    return {name: value / _parts(compute) for name, value in whole.items()}


def _parts(compute: Compute) -> int:
    """Over how many processes weights are spread."""
    return compute.training_processes if compute.sharding != "none" else 1


def _updating(profile: Profile, assumed: Assumptions) -> Memory:
    """The backward pass."""
    arch, compute = architecture_of(profile.slm), profile.compute
    rollouts = compute.batch(profile.grpo.questions_per_step * profile.grpo.num_generations)[0]
    tokens = rollouts * (assumed.longest_prompt + profile.grpo.max_completion_length)
    bytes_ = {
        "gradients": 4 * trained_parameters(profile) / _parts(compute),
        "copies of weights": _copies(profile),
        "activations": tokens * activation_bytes(arch, compute),
        "logits": _TILE_COPIES * 4 * min(tokens, _TILE_TOKENS) * min(arch.vocab_size, _TILE_WORDS),
    }
    return _of_process(compute, assumed, "train: update", _standing(profile) | bytes_)


def _copies(profile: Profile) -> float:
    """Bytes of weights that stand twice while they are used, and of the output layer's gradient while tiles add to it.

    Sharded, two layers and both embeddings are gathered in 16 bits and TRL gathers the output layer in float32; otherwise mixed
    precision keeps a 16-bit copy of what is trained, and several processes keep the gradients once more in buckets to be sent.
    """
    arch, compute = architecture_of(profile.slm), profile.compute
    embedding = arch.vocab_size * arch.hidden_size
    own = arch.parameters - embedding * (1 if arch.tied else 2)
    head = 0 if compute.lora_rank else 4 * embedding
    if compute.sharding != "none":
        return 2 * (2 * own / arch.layers + 2 * embedding) + 4 * embedding + head
    trained = trained_parameters(profile)
    mixed = 2 * trained if compute.dtype == "bfloat16" else 0
    return mixed + head + (4 * trained if compute.training_processes > 1 else 0)


def activation_bytes(arch: Architecture, compute: Compute) -> float:
    """Bytes of activations kept for the backward pass, for each token.

    After Korthikanti et al. 2022 (arXiv 2205.05198, section 4), for grouped queries and a gated feed-forward layer, without
    dropout and without the matrix of attention, which fused kernels do not keep.  A layer keeps six vectors of the hidden size
    around its two norms (two of them in float32), queries, keys and values before and after rotation, what attention gives, and
    four vectors of the feed-forward layer; where float32 weights are trained in mixed precision, also what the norms give in
    float32.  With checkpointing: each layer's input, and one whole layer that is computed again.
    """
    size, h, kv = _BYTES[compute.dtype], arch.hidden_size, arch.kv_heads * arch.head_size
    layer = 2 * 4 * h + size * (4 * h + 3 * h + 3 * kv + 4 * arch.intermediate_size)
    if compute.dtype == "bfloat16" and not compute.lora_rank:
        layer += 2 * 4 * h
    if not compute.gradient_checkpointing:
        return arch.layers * layer
    return arch.layers * h * (size if compute.lora_rank else 4) + layer


def _rollouts(profile: Profile, assumed: Assumptions) -> list[Memory]:
    """Sampling for training: last what samples, before it what stands beside it on the same GPU."""
    arch, compute, standing = architecture_of(profile.slm), profile.compute, _standing(profile)
    length = assumed.longest_prompt + profile.grpo.max_completion_length
    if compute.rollouts == "transformers":
        own = (
            profile.grpo.questions_per_step
            * profile.grpo.num_generations
            // compute.training_processes
        )
        bytes_ = {
            "keys and values": own * length * arch.kv_bytes_per_token,
            "copies of weights": _copies(profile),
        }
        return [_of_process(compute, assumed, "train: rollouts", standing | bytes_)]
    if compute.rollouts == "server":
        return [
            _of_vllm(
                assumed, "train: vLLM server", arch, length, assumed.vllm_share * compute.memory_gib
            )
        ]
    share = compute.vllm_memory * compute.memory_gib
    beside = _of_process(compute, assumed, "train: rollouts", standing | {"vLLM": share * GIB})
    return [beside, _of_vllm(assumed, "train: vLLM's share", arch, length, share)]


def _answering(profile: Profile, assumed: Assumptions, name: str, model: str) -> Memory:
    """Answering evaluation questions."""
    arch, compute = architecture_of(model), profile.compute
    length = assumed.longest_prompt + profile.max_new_tokens
    if compute.use_cpu:
        bytes_ = {
            "weights": 4 * arch.parameters,
            "keys and values": profile.batch_size * length * 2 * arch.kv_bytes_per_token,
        }
        return _of_process(compute, assumed, f"generate {name}", bytes_)
    gpus = compute.gpus_for(model)
    name = f"generate {name} ({gpus} GPU{'s' * (gpus > 1)})"
    return _of_vllm(assumed, name, arch, length, assumed.vllm_share * compute.memory_gib, gpus)


def _probing(profile: Profile, assumed: Assumptions) -> Memory:
    """The SLM's hidden states for its probe, read by transformers in batches.

    A batch holds every layer's states while it runs.  Beside them stand three vectors of the feed-forward layer at work; there
    are no logits.
    """
    arch, compute = architecture_of(profile.slm), profile.compute
    size, tokens = (
        _BYTES[compute.dtype],
        profile.batch_size * (assumed.longest_prompt + profile.max_new_tokens),
    )
    bytes_ = {
        "weights": size * arch.parameters,
        "hidden states of a batch": size * tokens * (arch.layers + 1) * arch.hidden_size,
        "a layer at work": 3 * size * tokens * arch.intermediate_size,
    }
    return _of_process(compute, assumed, "probe SLM", bytes_)


# --- what would make it fit


def advice(profile: Profile, assumed: Assumptions) -> dict | None:
    """The fewest changed settings, three at most, that make everything fit, found by trying; {} where it fits, None for none.

    Keys are fields of `Compute`, or of `Profile` (batch_size): see `changed`.
    """
    choices = _choices(profile)
    for names in itertools.chain.from_iterable(
        itertools.combinations(choices, number) for number in range(4)
    ):
        for values in itertools.product(*(choices[name] for name in names)):
            if _would_fit(profile, assumed, changes := dict(zip(names, values, strict=True))):
                return changes
    return None


def changed(profile: Profile, changes: dict) -> Profile:
    """The profile with the changes of an advice made."""
    own = {name: value for name, value in changes.items() if name == "batch_size"}
    rest = {name: value for name, value in changes.items() if name not in own}
    return profile.replace(compute=dataclasses.replace(profile.compute, **rest), **own)


def _would_fit(profile: Profile, assumed: Assumptions, changes: dict) -> bool:
    try:
        return all(memory.fits for memory in memories(changed(profile, changes), assumed))
    except ValueError:  # rollouts that cannot be dealt out so
        return False


def _choices(profile: Profile) -> dict[str, Sequence]:
    """Settings that save memory and values to try, the cheapest first."""
    rollouts = profile.compute.batch(
        profile.grpo.questions_per_step * profile.grpo.num_generations
    )[0]
    return {
        "gradient_checkpointing": [True],
        "micro_batch": [rollouts // 2**k for k in range(1, rollouts.bit_length())],
        "batch_size": [
            profile.batch_size // 2**k for k in range(1, profile.batch_size.bit_length())
        ],
        "vllm_memory": [0.2, 0.3, 0.4, 0.5, 0.6],
        "rollouts": ["server"],
        "sharding": ["fsdp2"],
        "lora_rank": [32],
        "gpus": [profile.compute.gpus * more for more in (2, 4, 8)],
    }


# --- disk and money


def disk(profile: Profile, assumed: Assumptions) -> dict[str, float]:
    """GiB on disk after `make paper`: models of the hub, checkpoints of one run at a time, models of finished runs, records."""
    slm, llm = (architecture_of(model).parameters for model in (profile.slm, profile.llm))
    trained, runs = trained_parameters(profile), len(TRAINED) + len(variants.IN_PAPER)
    shipped = (
        {"shipped models": 4 * (slm + llm)}
        if profile.suite == "mini"
        else {"models of the hub": 2 * (slm + llm)}
    )
    finished = (
        _BYTES[profile.compute.dtype] * slm + 4 * trained if profile.compute.lora_rank else 4 * slm
    )
    recorded = sum(
        part.completion_tokens
        for part in stages(profile, assumed)
        if part.name.startswith("generate")
    )
    return _gib(shipped | {
        "checkpoints of a run while it lasts": _CHECKPOINTS * (4 + _ADAM) * trained,
        f"models of {runs} finished runs": runs * finished,
        "records": recorded * assumed.record_bytes,
    })  # fmt: skip


def money(profile: Profile, assumed: Assumptions, parts: Sequence[Stage]) -> dict[str, float]:
    """US dollars: the machine, rented whole for all stages in turn; and a service's bill for the evaluation questions."""
    name, gpus = (
        gpu_of(profile.compute).name,
        max(profile.compute.gpus, *(part.gpus for part in parts)),
    )
    asked = next(part for part in parts if part.name == "generate LLM")
    llm = (
        asked.prompt_tokens * assumed.llm_prompt_price
        + asked.completion_tokens * assumed.llm_completion_price
    ) / 1e6
    ratio = PriceList.from_parameters(
        *(architecture_of(m).parameters for m in (profile.slm, profile.llm))
    ).slm.prompt
    return {
        f"{gpus} x {name}, {assumed.gpu_hour_price:.2f} an hour each, all stages": _hours(parts)
        * gpus
        * assumed.gpu_hour_price,
        "the evaluation's questions, LLM alone, from a service": llm,
        f"the same by the cascade, {assumed.deferral:.0%} of them deferred": llm
        * (ratio + assumed.deferral),
    }


def _hours(parts: Sequence[Stage]) -> float:
    return sum(part.seconds for part in parts) / 3600


# --- the estimate against a measured run


def check(assumed: Assumptions) -> pd.DataFrame:
    """Estimates for the `cpu` profile beside what was measured; columns what, unit, estimated, measured, ratio.

    What the speeds were taken from is not among the rows: it would agree by construction.  Fewer steps or questions were timed
    than the stage has; here time is in proportion to completions.
    """
    profile, measured, rows = load_profile("cpu"), load_measured()["stages"], []
    estimated = {stage.name: stage for stage in stages(profile, assumed)}
    memory = {memory.name: memory.total for memory in memories(profile, assumed)}
    for name, moment in (("train L1-SLM", "train: update"), ("generate LLM", "generate LLM")):
        stage, real = estimated[name], measured[name]
        seconds = stage.seconds * real["completions"] / stage.completions
        rows.append((f"{name}, {real['completions']:,} completions", "s", seconds, real["seconds"]))
        rows.append((f"{name}, memory", "GiB", memory[moment], real["memory_gib"]))
    for system in SYSTEMS:
        stage = estimated[f"generate {system}"]
        recorded = _recorded(system, (CALIBRATION, *test_datasets(profile.suite))).sum().sum()
        rows.append(
            (
                f"{stage.name}, tokens",
                "k",
                (stage.prompt_tokens + stage.completion_tokens) / 1e3,
                recorded / 1e3,
            )
        )
    found = pd.DataFrame(rows, columns=["what", "unit", "estimated", "measured"])
    return found.assign(ratio=found["estimated"] / found["measured"])


# --- printing


def text(profile: Profile, assumed: Assumptions) -> str:
    """The whole plan, at most `WIDTH` columns wide."""
    parts, on_cpu = stages(profile, assumed), profile.compute.use_cpu
    sections = {
        _title(profile): [
            "From sizes and assumptions; no model was loaded. A real run may take half of it, or twice."
        ],
        "Stages": _stage_lines(parts, other_ablations(profile, assumed), on_cpu),
        f"Memory of {'the process' if on_cpu else 'a GPU'}": _memory_lines(profile, assumed),
        "Disk": _amounts(disk(profile, assumed), "GiB"),
    }
    if on_cpu:
        sections["The cpu profile, estimated against measured (ratio 1 is right)"] = _check_lines(
            assumed
        )
    else:
        sections["Money"] = _amounts(money(profile, assumed, parts), "USD")
    sections["Assumed (each has its option, --prompt-tokens 300)"] = list(
        _assumption_lines(profile, assumed)
    )
    blocks = [
        [*textwrap.wrap(head, WIDTH), "-" * min(WIDTH, len(head)), *lines]
        for head, lines in sections.items()
    ]
    return "\n\n".join("\n".join(block) for block in blocks)


def _title(profile: Profile) -> str:
    slm, llm = (
        f"mini ({architecture_of(model).parameters / 1e6:.2f} M)"
        if Path(model).is_absolute()
        else model
        for model in (profile.slm, profile.llm)
    )
    compute = profile.compute
    machine = f"{compute.gpus} x {compute.memory_gib:g} GB, taken for {gpu_of(compute).name}"
    return f"Plan of PROFILE={profile.name}: SLM {slm}, LLM {llm}, {'on the CPU' if compute.use_cpu else machine}"


def _stage_lines(parts: Sequence[Stage], more: Sequence[Stage], on_cpu: bool) -> list[str]:
    """A table: thousands of tokens and minutes on the CPU, millions and hours on GPUs."""
    unit, time, seconds, tokens, many = (
        ("core", "min", 60, "ktok", 1e3) if on_cpu else ("GPU", "h", 3600, "Mtok", 1e6)
    )
    head = [
        "stage",
        "questions",
        "completions",
        f"prompt {tokens}",
        f"compl. {tokens}",
        f"{unit}s",
        time,
        f"{unit}-{time}",
    ]
    rows = [
        [
            part.name, f"{part.questions:,}", f"{part.completions:,}", f"{part.prompt_tokens / many:,.1f}",
            f"{part.completion_tokens / many:,.1f}", str(part.gpus), f"{part.seconds / seconds:,.2f}",
            f"{part.gpus * part.seconds / seconds:,.2f}",
        ]
        for part in (*parts, *more)
    ]  # fmt: skip
    idle = "On fewer GPUs the others are idle, and charged (`make shard` can use them)."
    return [
        *_table([head, *rows]),
        f"make paper: {_hours(parts):,.2f} h one stage after the other; make ablations: {_hours(more):,.2f} h more",
        "Not counted: start-up, grading, probes, sending weights to vLLM. Each rollout reads its prompt.",
        *([idle] if len({part.gpus for part in parts}) > 1 else []),
    ]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, its first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        " ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]


def _memory_lines(profile: Profile, assumed: Assumptions) -> list[str]:
    """Each moment's total against its limit, and its parts; then what would make it fit."""
    lines = []
    for memory in memories(profile, assumed):
        limit = (
            ""
            if memory.limit is None
            else f" of {memory.limit:.1f}   {'fits' if memory.fits else 'DOES NOT FIT'}"
        )
        lines.append(f"{memory.name:<28}{memory.total:8.2f} GiB{limit}")
        parts = ", ".join(
            f"{name} {value:.2f}" for name, value in memory.parts.items() if value >= 0.005
        )
        parts += f"; room for {memory.sequences:,} sequences" if memory.sequences else ""
        lines += textwrap.wrap(parts, WIDTH - 4, initial_indent="    ", subsequent_indent="    ")
    changes = advice(profile, assumed)
    if changes is None:
        return [*lines, "Nothing that was tried makes it fit: take larger GPUs or a smaller model."]
    said = ", ".join(f"{name}={value!r}" for name, value in changes.items())
    return [*lines, f"It fits with {said}."] if changes else lines


def _amounts(found: dict[str, float], unit: str) -> list[str]:
    return [f"{name:<56}{value:10,.2f} {unit}" for name, value in found.items()]


def _check_lines(assumed: Assumptions) -> list[str]:
    shown, measured = check(assumed), load_measured()
    rows = [
        [what, unit, *(f"{value:,.2f}" for value in values)]
        for what, unit, *values in shown.itertuples(index=False)
    ]
    speed, cache = cpu_speeds()
    note = (
        f"Speeds from the SLM alone: {speed / 1e9:.1f} GFLOP/s in a forward pass, {cache / 1e9:.2f} GB/s of keys and values "
        f"while sampling; lengths from its calibration split. Measured {measured['date']} on {measured['machine']}, one thread, "
        f"{measured['note']}."
    )
    return [*_table([list(shown.columns), *rows]), *textwrap.wrap(note, WIDTH)]


def _assumption_lines(profile: Profile, assumed: Assumptions) -> Iterator[str]:
    """Each assumption that this plan used, with its value and reason."""
    for part in dataclasses.fields(Assumptions):
        on_cpu = part.name in (*_LENGTHS, "process_gib", "record_bytes")
        if not (on_cpu if profile.compute.use_cpu else part.name != "process_gib"):
            continue
        why = part.metadata["why"]
        if profile.suite == "mini" and part.name in _LENGTHS:
            why = f"{why.split(';')[0]}; of the SLM's tracked records on the calibration split"
        start = f"{part.name:<22}{getattr(assumed, part.name):>8.4g}  "
        yield from textwrap.wrap(why, WIDTH, initial_indent=start, subsequent_indent=" " * 32)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m corea.paper.plan --profile NAME`; one clear line and exit status 1 where something is wrong."""
    cli = argparse.ArgumentParser(
        prog="corea.paper.plan", description="What a run would take.", allow_abbrev=False
    )
    cli.add_argument("--profile", default="cpu")
    for part in dataclasses.fields(Assumptions):
        cli.add_argument(
            f"--{part.name.replace('_', '-')}",
            type=float,
            help=part.metadata["why"].replace("%", "%%"),
        )
    given = vars(cli.parse_args(arguments))
    try:
        profile = load_profile(given.pop("profile"))
        print(
            text(
                profile,
                assumptions_for(
                    profile, **{name: value for name, value in given.items() if value is not None}
                ),
            )
        )
    except (ValueError, OSError) as error:
        print(f"corea.paper.plan: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
