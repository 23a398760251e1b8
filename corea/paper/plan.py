"""What a run would take, before any money is spent: `make plan PROFILE=paper`.

Tokens, time, memory, disk and money follow from the profile, the sizes of its models, `gpus.csv`
and `assumptions.csv`; no model is loaded.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from corea.costs import PriceList
from corea.grpo import GRPOSettings
from corea.paper import variants
from corea.paper.profiles import Profile, load_profile
from corea.paper.variants import SYSTEMS, TRAINED
from corea.questions.base import CALIBRATION, group_of, test_datasets
from corea.questions.hub import SETS
from corea.support.hardware import Compute
from corea.support.models import Architecture, architecture_of

GIB, WIDTH = 2**30, 100
_BYTES = {"float32": 4, "bfloat16": 2}
_ADAM = 8  # bytes a trained number: two float32 moments
# TRL 1.16 takes logits by float32 tiles: a tile, its log-softmax and its gradient stand at once
_TILE_TOKENS, _TILE_WORDS, _TILE_COPIES = 4096, 32768, 3
_CHECKPOINTS = 3  # two that are kept, and one while it is written
_ADVICE = (
    "What usually helps, cheapest first: gradient_checkpointing, a smaller micro_batch (probe: "
    "batch_size), another vllm_memory, rollouts='server', sharding='fsdp2', lora_rank, more GPUs."
)


def gpu_of(compute: Compute) -> pd.Series:
    """The smallest kind of GPU that has the memory, or else the largest; its figures by name."""
    gpus = _csv("gpus.csv")
    enough = gpus[gpus["memory_gib"] >= compute.memory_gib]
    return (enough if len(enough) else gpus.tail(1)).iloc[0]


def assumptions_for(profile: Profile, **given: float) -> pd.Series:
    """The assumptions for a profile by name, with `given` in place of its own.

    Raises:
        ValueError: if a value is out of range.
    """
    table = _csv("assumptions.csv")
    values = {**table["value"], **gpu_of(profile.compute).drop("memory_gib")}
    if profile.suite == "mini":
        values |= table["mini"].dropna()
    else:
        values["completion_tokens"] = 0.35 * profile.max_new_tokens
        values["longest_completion"] = profile.grpo.max_completion_length
    for name, value in (values := values | given).items():
        most, may_be_0 = table["most"][name], table["may_be_0"][name]
        if not 0 <= value <= most or not (value or may_be_0):
            option = f"--{name}={value:g}".replace("_", "-")
            low = "0 or more" if may_be_0 else "above 0"
            raise ValueError(f"{option} must be {low} and at most {most:g}")
    return pd.Series(values)


def _csv(name: str) -> pd.DataFrame:
    return pd.read_csv(Path(__file__).with_name(name), index_col="name")


# --- stages and time


def stages(profile: Profile, assumed: pd.Series) -> pd.DataFrame:
    """The stages of `make paper` in their order, then what `make ablations` adds.

    Returns:
        Columns command ("paper" or "ablations"), stage, gpus (the CPU counts as one), questions,
        completions, seconds on all gpus together, and totals prompt_tokens and completion_tokens.
    """
    models = {name: profile.llm if name == "LLM" else profile.slm for name in SYSTEMS}
    names = variants.ablations_of(profile)
    more = [name for name in names if name not in variants.IN_PAPER]
    rows = [
        *(("paper", f"train {s}", *_training(profile, assumed, profile.grpo)) for s in TRAINED),
        *(("paper", f"generate {s}", *_answers(profile, assumed, m)) for s, m in models.items()),
        *_ablations(profile, assumed, "paper", variants.IN_PAPER, "ablations"),
        *_ablations(profile, assumed, "ablations", more, "more ablations"),
    ]
    columns = ["command", "stage", "gpus", "questions", "completions", "seconds"]
    table = pd.DataFrame(rows, columns=columns).groupby(columns[:3], sort=False).sum().reset_index()
    for tokens in ("prompt_tokens", "completion_tokens"):
        table[tokens] = table["completions"] * assumed[tokens]
    return table


def _ablations(profile: Profile, assumed: pd.Series, command: str, names, what: str) -> Iterator:
    """Rows of `stages` for several variants; a base SLM that only one of them has answers too."""
    for variant in (variants.spec_of(profile, name) for name in names):
        base = variant.base if variant.base in profile.backbones else profile.slm
        changed = profile.replace(slm=base, samples=variant.samples(profile))
        training = _training(changed, assumed, variant.settings(profile))
        yield command, f"train {len(names)} {what}", *training
        for _ in range(2 if variant.base else 1):
            yield command, f"generate {len(names)} {what}", *_answers(changed, assumed, base)


def evaluation_sizes(profile: Profile) -> dict[str, int]:
    """How many questions the calibration split and each test set have."""
    sizes = {CALIBRATION: profile.calibration_size}
    for dataset in test_datasets(profile.suite):
        size = profile.in_domain_size if group_of(dataset) == "in-domain" else profile.ood_size
        available = sys.maxsize if profile.suite == "mini" else SETS[dataset].rows
        sizes[dataset] = min(size or sys.maxsize, available)
    return sizes


def _training(profile: Profile, assumed: pd.Series, settings: GRPOSettings) -> tuple:
    """GPUs, questions, completions and seconds of one GRPO run of the SLM."""
    arch, compute = architecture_of(profile.slm), profile.compute
    rollouts = settings.questions_per_step * settings.num_generations
    questions, completions = settings.steps * settings.questions_per_step, settings.steps * rollouts
    padded = completions * (assumed.longest_prompt + assumed.longest_completion)
    flops = padded * arch.parameters * flops_per_token(compute, settings.beta)
    if compute.use_cpu:
        seconds = _cpu_seconds(arch, assumed, completions) + flops / (assumed.cpu_gflops * 1e9)
        return 1, questions, completions, seconds
    server = int(compute.rollouts == "server")
    engines = server or compute.gpus
    room = _vllm(profile, assumed, profile.slm, training=True)["room"]
    sampling = _gpu_seconds(arch, assumed, completions, -(-rollouts // engines), room) / engines
    update = flops / (assumed.gpu_tflops * 1e12 * assumed.train_share * compute.gpus)
    return compute.gpus + server, questions, completions, sampling + update


def _answers(profile: Profile, assumed: pd.Series, model: str) -> tuple:
    """GPUs, questions, completions and seconds of a model's answers to the evaluation questions."""
    arch, questions = architecture_of(model), sum(evaluation_sizes(profile).values())
    completions = questions * profile.samples
    if profile.compute.use_cpu:
        return 1, questions, completions, _cpu_seconds(arch, assumed, completions)
    room, gpus = _vllm(profile, assumed, model)["room"], profile.compute.gpus_for(model)
    seconds = _gpu_seconds(arch, assumed, completions, completions, room, gpus)
    return gpus, questions, completions, seconds


def flops_per_token(compute: Compute, beta: float) -> float:
    """FLOPs of a training step per token and parameter, without its sampling.

    2 forward and 4 backward (Kaplan et al. 2020, arXiv 2001.08361), of which an adapter saves the
    frozen weights' 2; 2 each to recompute activations, for the reference model, and to score what
    vLLM sampled.  Attention's own products are left out: under 5% at these lengths.
    """
    more = compute.gradient_checkpointing + (beta > 0) + (compute.rollouts != "transformers")
    return 2 + (2 if compute.lora_rank else 4) + 2 * more


def _gpu_seconds(arch: Architecture, assumed, completions, at_once, room, gpus=1) -> float:
    """Seconds of one vLLM engine on `gpus` GPUs; it samples what has room, `at_once` at most.

    A step reads the weights once and each sequence's keys and values, or is held up by 2 FLOPs a
    parameter and token (Pope et al. 2022, arXiv 2211.05102).
    """
    cache = (assumed.prompt_tokens + assumed.completion_tokens) * arch.kv_bytes_per_token
    at_once = max(1, min(at_once, assumed.most_sequences, room * gpus // cache))
    products = 2 * arch.parameters / (gpus * assumed.gpu_tflops * 1e12 * assumed.prefill_share)
    bandwidth = gpus * assumed.gpu_bandwidth * 1e12 * assumed.bandwidth_share
    step = max((2 * arch.parameters + at_once * cache) / bandwidth, at_once * products)
    per_completion = assumed.prompt_tokens * products + assumed.completion_tokens * step / at_once
    return completions * per_completion


def _cpu_seconds(arch: Architecture, assumed: pd.Series, completions: int) -> float:
    """Seconds in which one core samples; at each token it reads float32 keys and values."""
    prompt, completion = assumed.prompt_tokens, assumed.completion_tokens
    products = 2 * arch.parameters * (prompt + completion) / (assumed.cpu_gflops * 1e9)
    cache = completion * (prompt + completion / 2) * 2 * arch.kv_bytes_per_token
    return completions * (products + cache / (assumed.cpu_bandwidth * 1e9))


# --- memory


def memory(profile: Profile, assumed: pd.Series) -> pd.DataFrame:
    """GiB of one GPU (on the CPU: of the process) at each moment that could be the fullest.

    Returns:
        A column per moment, a row per part, then total; on GPUs also limit, and sequences: how many
        of the longest vLLM has room for (NaN if the moment does not fit).
    """
    compute, models = profile.compute, {"SLM": profile.slm, "LLM": profile.llm}
    standing, update = _training_parts(profile, assumed)
    moments = {"update": standing | update}
    if not compute.use_cpu:
        share = compute.vllm_memory * (compute.rollouts == "colocate")
        moments["rollouts"] = standing | {"vLLM": share * compute.memory_gib * GIB}
        moments["vLLM rollouts"] = _vllm(profile, assumed, profile.slm, training=True)
    answering = _cpu_answers if compute.use_cpu else _vllm
    for name, model in models.items():
        moments[f"{name} answers"] = answering(profile, assumed, model)
    if compute.use_cpu:
        table = pd.DataFrame(moments) / GIB
        table.loc["process"] = assumed.process_gib
        table.loc["total"] = table.sum()
        return table
    table = pd.DataFrame(moments | {"probe": _probe(profile, assumed)}) / GIB
    limit, room = table.loc["limit"], table.loc["room"]
    table = table.drop(["limit", "room"])
    table.loc["total"] = table.sum()
    table.loc["limit"] = limit.fillna(compute.memory_gib * (1 - assumed.reserve_share))
    fits = table.loc["total"] <= table.loc["limit"]
    table.loc["sequences"] = (room // table.loc["longest sequence"]).where(fits)
    return table


def trained_parameters(profile: Profile) -> int:
    """How many numbers the optimizer changes: all of the SLM's, or its adapter's."""
    arch, rank = architecture_of(profile.slm), profile.compute.lora_rank
    return arch.lora_parameters(rank) if rank else arch.parameters


def _training_parts(profile: Profile, assumed: pd.Series) -> tuple[dict, dict]:
    """Bytes on each GPU that stay through training, and those of a backward pass beside them."""
    arch, compute, trained = (
        architecture_of(profile.slm),
        profile.compute,
        trained_parameters(profile),
    )
    shards = 1 if compute.sharding == "none" else compute.training_processes
    frozen = _BYTES[compute.dtype] * arch.parameters if compute.lora_rank else 0
    has_reference = profile.grpo.beta > 0 and not compute.lora_rank
    standing = {
        "weights": (frozen + 4 * trained) / shards,
        "optimizer": _ADAM * trained / shards,
        "reference model": 4 * arch.parameters * has_reference / shards,
    }
    rollouts, _ = compute.batch(profile.grpo.questions_per_step * profile.grpo.num_generations)
    tokens = rollouts * (assumed.longest_prompt + profile.grpo.max_completion_length)
    tile = min(tokens, _TILE_TOKENS) * min(arch.vocab_size, _TILE_WORDS)
    update = {
        "gradients": 4 * trained / shards,
        "copies of weights": _copies(arch, compute, trained),
        "activations": tokens * activation_bytes(arch, compute),
        "logits": _TILE_COPIES * 4 * tile,
    }
    return standing, update


def _copies(arch: Architecture, compute: Compute, trained: int) -> float:
    """Bytes of weights that stand twice in use, and of the output layer's summed gradient.

    Sharded: two layers and both embeddings gathered in 16 bits, the output layer in float32.
    Otherwise: what mixed precision trains in 16 bits, several processes' gradients to be sent.
    """
    embedding = arch.vocab_size * arch.hidden_size
    head = 0 if compute.lora_rank else 4 * embedding
    if compute.sharding != "none":
        layers = arch.parameters - embedding * (1 if arch.tied else 2)
        return 2 * (2 * layers / arch.layers + 2 * embedding) + 4 * embedding + head
    return head + trained * (
        2 * (compute.dtype == "bfloat16") + 4 * (compute.training_processes > 1)
    )


def activation_bytes(arch: Architecture, compute: Compute) -> float:
    """Bytes of activations per token that are kept for the backward pass.

    After Korthikanti et al. 2022 (arXiv 2205.05198, section 4), for grouped queries and a gated
    feed-forward layer, without dropout and the attention matrix, which fused kernels do not keep.
    A layer keeps six hidden vectors around its two norms (two in float32); queries, keys and values
    before and after rotation; what attention gives; four vectors of the feed-forward layer; and, if
    float32 weights are trained in mixed precision, what the norms give in float32.  With
    checkpointing: each layer's input, and one whole layer that is computed again.
    """
    size, h, kv = _BYTES[compute.dtype], arch.hidden_size, arch.kv_heads * arch.head_size
    layer = 2 * 4 * h + size * (4 * h + 3 * h + 3 * kv + 4 * arch.intermediate_size)
    if compute.dtype == "bfloat16" and not compute.lora_rank:
        layer += 2 * 4 * h
    if not compute.gradient_checkpointing:
        return arch.layers * layer
    return arch.layers * h * (size if compute.lora_rank else 4) + layer


def _vllm(profile: Profile, assumed: pd.Series, model: str, training: bool = False) -> dict:
    """Bytes of vLLM on each GPU that shares a model, its limit, and its room for sequences."""
    arch, compute = architecture_of(model), profile.compute
    if "transformers" in (compute.engine, compute.rollouts):
        raise ValueError("a plan for GPUs needs engine='vllm', rollouts='colocate' or 'server'")
    gpus = 1 if training else compute.gpus_for(model)
    longest = profile.grpo.max_completion_length if training else profile.max_new_tokens
    beside = training and compute.rollouts == "colocate"
    limit = (compute.vllm_memory if beside else assumed.vllm_share) * compute.memory_gib * GIB
    parts = {"weights": 2 * arch.parameters / gpus, "vLLM's work": assumed.vllm_work_gib * GIB}
    one = (assumed.longest_prompt + longest) * arch.kv_bytes_per_token / gpus
    room = limit - sum(parts.values())
    return {**parts, "longest sequence": one, "limit": limit, "room": room}


def _cpu_answers(profile: Profile, assumed: pd.Series, model: str) -> dict[str, float]:
    """Bytes of a batch of answers."""
    arch, length = architecture_of(model), assumed.longest_prompt + profile.max_new_tokens
    cache = profile.batch_size * length * 2 * arch.kv_bytes_per_token
    return {"weights": 4 * arch.parameters, "keys and values": cache}


def _probe(profile: Profile, assumed: pd.Series) -> dict[str, float]:
    """Bytes while a batch's hidden states are read: of all layers, one at work, no logits."""
    arch, size = architecture_of(profile.slm), _BYTES[profile.compute.dtype]
    batch = size * profile.batch_size * (assumed.longest_prompt + profile.max_new_tokens)
    return {
        "weights": size * arch.parameters,
        "hidden states": batch * (arch.layers + 1) * arch.hidden_size,
        "a layer at work": 3 * batch * arch.intermediate_size,
    }


# --- disk and money


def disk(profile: Profile, assumed: pd.Series) -> pd.Series:
    """GiB on disk after `make paper`, with the checkpoints of one run at a time."""
    slm, llm = (architecture_of(model).parameters for model in (profile.slm, profile.llm))
    trained, runs = trained_parameters(profile), len(TRAINED) + len(variants.IN_PAPER)
    compute, is_mini = profile.compute, profile.suite == "mini"
    run = _BYTES[compute.dtype] * slm + 4 * trained if compute.lora_rank else 4 * slm
    answers = stages(profile, assumed).query("command == 'paper' and stage.str.startswith('gen')")
    sizes = {
        "shipped models" if is_mini else "models of the hub": (4 if is_mini else 2) * (slm + llm),
        "checkpoints of a run while it lasts": _CHECKPOINTS * (4 + _ADAM) * trained,
        f"models of {runs} finished runs": runs * run,
        "records": answers["completion_tokens"].sum() * assumed.record_bytes,
    }
    return pd.Series(sizes) / GIB


def money(profile: Profile, assumed: pd.Series) -> pd.Series:
    """US dollars: of the machine for all stages in turn; of a service for the questions."""
    table = stages(profile, assumed).query("command == 'paper'").set_index("stage")
    gpus = max(profile.compute.gpus, table["gpus"].max())
    machine = f"{gpus} x {gpu_of(profile.compute).name}, {assumed.gpu_hour_price:.2f} an hour each"
    asked = table.loc["generate LLM"]
    llm = asked["prompt_tokens"] * assumed.llm_prompt_price / 1e6
    llm += asked["completion_tokens"] * assumed.llm_completion_price / 1e6
    sizes = (architecture_of(model).parameters for model in (profile.slm, profile.llm))
    cascade = PriceList.from_parameters(*sizes).slm.prompt + assumed.deferral
    bills = {
        f"{machine}, all stages": table["seconds"].sum() / 3600 * gpus * assumed.gpu_hour_price,
        "the evaluation's questions, LLM only, from a service": llm,
        f"the same by the cascade, {assumed.deferral:.0%} of them deferred": llm * cascade,
    }
    return pd.Series(bills)


# --- printing


def text(profile: Profile, assumed: pd.Series) -> str:
    """The whole plan, at most `WIDTH` columns wide."""
    compute, on_cpu = profile.compute, profile.compute.use_cpu
    gpus = f"{compute.gpus} x {compute.memory_gib:g} GB, taken for {gpu_of(compute).name}"
    slm, llm = (Path(model).name if on_cpu else model for model in (profile.slm, profile.llm))
    sections = {
        f"Plan of PROFILE={profile.name}": f"SLM {slm}, LLM {llm}, {'CPU' if on_cpu else gpus}\n"
        "By sizes and assumptions; no model was loaded. A real run may take half of it, or twice.",
        "Stages": _stages_text(stages(profile, assumed), on_cpu),
        f"GiB of {'the process' if on_cpu else 'a GPU'}": _memory_text(memory(profile, assumed)),
        "GiB on disk": _numbers(disk(profile, assumed)),
    }
    if not on_cpu:
        sections["US dollars"] = _numbers(money(profile, assumed))
    reasons = "\n".join(_reasons(assumed, on_cpu))
    sections["Assumed (each has its option, --prompt-tokens 300)"] = reasons
    return "\n\n".join(f"{head}\n{'-' * len(head)}\n{body}" for head, body in sections.items())


def _numbers(table: pd.DataFrame | pd.Series) -> str:
    return table.to_string(float_format="{:,.2f}".format, na_rep="")


def _stages_text(table: pd.DataFrame, on_cpu: bool) -> str:
    """By thousands of tokens and minutes on the CPU, by millions and hours on GPUs."""
    paper, more = table.groupby("command", sort=False)["seconds"].sum() / 3600
    tokens, time, scale = ("k", "min", [1e3, 1e3, 60]) if on_cpu else ("M", "h", [1e6, 1e6, 3600])
    shown = table.set_index("stage").rename_axis(None)
    shown = shown[["questions", "completions"]].map("{:,}".format).assign(gpus=shown["gpus"])
    columns = [f"{tokens} prompt", f"{tokens} compl.", time]
    shown[columns] = table[["prompt_tokens", "completion_tokens", "seconds"]].to_numpy() / scale
    shown[f"{time} x gpus"] = shown[time] * shown["gpus"]
    return (
        f"{_numbers(shown)}\nmake paper: {paper:,.2f} h, one stage after the other; "
        f"make ablations: {more:,.2f} h more.\n"
        "Not counted: start-up, grading, probes, sending weights to vLLM."
    )


def _memory_text(table: pd.DataFrame) -> str:
    """The table and, on GPUs, whether all moments fit."""
    if "limit" not in table.index:
        return _numbers(table)
    over = table.columns[table.loc["total"] > table.loc["limit"]]
    answer = f"DOES NOT FIT: {', '.join(over)}. {_ADVICE}" if len(over) else "All of it fits."
    return "\n".join([_numbers(table), *textwrap.wrap(answer, WIDTH)])


def _reasons(assumed: pd.Series, on_cpu: bool) -> Iterator[str]:
    """Lines of the assumptions that a plan uses, with values and reasons."""
    table = _csv("assumptions.csv")
    for row in table[table["machine"] != ("gpu" if on_cpu else "cpu")].itertuples():
        start = f"{row.Index:<22}{assumed[row.Index]:>8.4g}  "
        yield from textwrap.wrap(row.why, WIDTH, initial_indent=start, subsequent_indent=" " * 32)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m corea.paper.plan --profile NAME`; one clear line and exit status 1 on an error."""
    cli = argparse.ArgumentParser(prog="corea.paper.plan", allow_abbrev=False)
    cli.add_argument("--profile", default="cpu")
    for name, why in _csv("assumptions.csv")["why"].items():
        option = f"--{name}".replace("_", "-")
        cli.add_argument(option, type=float, default=argparse.SUPPRESS, help=why.replace("%", "%%"))
    given = vars(cli.parse_args(arguments))
    try:
        profile = load_profile(given.pop("profile"))
        print(text(profile, assumptions_for(profile, **given)))
    except (ValueError, OSError) as error:
        print(f"corea.paper.plan: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
