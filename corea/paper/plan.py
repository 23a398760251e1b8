"""What a run would take, before any money is spent: `make plan PROFILE=paper`.

Tokens, time, memory, disk and money follow from the profile, the sizes of its models, `gpus.csv`
and `assumptions.csv`; no model is loaded.
"""

import argparse
import math
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from corea.costs import PriceList
from corea.paper import variants
from corea.paper.profiles import Profile, load_profile
from corea.paper.variants import IN_PAPER, SYSTEMS, TRAINED
from corea.questions.base import CALIBRATION, group_of, test_datasets
from corea.questions.hub import SETS
from corea.support.hardware import Compute
from corea.support.models import Architecture, architecture_of

GIB, WIDTH = 2**30, 100
_RUNS = (*SYSTEMS, *IN_PAPER)  # of `make paper`; `make ablations` adds all others
_BYTES = {"float32": 4, "bfloat16": 2}
_ADAM = 8  # bytes a trained number: two float32 moments
# TRL 1.16 takes logits by float32 tiles: a tile, its log-softmax and its gradient stand at once
_TILE_TOKENS, _TILE_WORDS, _TILE_COPIES = 4096, 32768, 3
_CHECKPOINTS = 3  # two that are kept, and one while it is written
_ADVICE = (
    "What usually helps, cheapest first: gradient_checkpointing, a smaller micro_batch (probe: "
    "batch_size), another vllm_memory, rollouts='server', sharding='fsdp2', lora_rank, more GPUs."
)


def _csv(name: str) -> pd.DataFrame:
    return pd.read_csv(Path(__file__).with_name(name), index_col="name")


def _gpu_of(compute: Compute) -> pd.Series:
    """The smallest kind of GPU that has the memory, or else the largest; its figures by name."""
    gpus = _csv("gpus.csv")
    enough = gpus[gpus["memory_gib"] >= compute.memory_gib]
    return (enough if len(enough) else gpus.tail(1)).iloc[0]


def assumptions_for(profile: Profile, **given: float) -> pd.Series:
    """The assumptions for a profile, those `given` in place of its own; ValueError out of range."""
    table = _csv("assumptions.csv")
    values = {**table["value"], **_gpu_of(profile.compute).drop("memory_gib")}
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


def stages(profile: Profile, assumed: pd.Series, runs: Iterable[str] = _RUNS) -> pd.DataFrame:
    """Work by stage of `make paper`, or of other runs; seconds are those on all GPUs together."""
    work, bases = {}, {"LLM": profile.llm} | {base: base for base in profile.backbones}
    for name in runs:
        run = variants.spec_of(profile, name)
        settings = {"grpo": run.settings(profile), "samples": run.samples(profile)}
        changed = profile.replace(slm=bases.get(run.base or "", profile.slm), **settings)
        if run.reward:
            work[f"train {name}"] = _work(changed, assumed, training=True)
        work[f"generate {name}"] = _work(changed, assumed, training=False)
    table = pd.DataFrame(work, index=["gpus", "questions", "completions", "seconds"]).T
    for tokens in ("prompt_tokens", "completion_tokens"):
        table[tokens] = table["completions"] * assumed[tokens]
    return table


def evaluation_sizes(profile: Profile) -> dict[str, int]:
    """How many questions the calibration split and each test set have."""
    sizes = {CALIBRATION: profile.calibration_size}
    for dataset in test_datasets(profile.suite):
        size = profile.in_domain_size if group_of(dataset) == "in-domain" else profile.ood_size
        available = sys.maxsize if profile.suite == "mini" else SETS[dataset].rows
        sizes[dataset] = min(size or sys.maxsize, available)
    return sizes


def _work(profile: Profile, assumed: pd.Series, training: bool) -> tuple:
    """GPUs, questions, completions and seconds of a GRPO run of the SLM, or of its evaluation."""
    arch, compute, grpo = architecture_of(profile.slm), profile.compute, profile.grpo
    questions, samples = sum(evaluation_sizes(profile).values()), profile.samples
    if training:
        questions, samples = grpo.steps * grpo.questions_per_step, grpo.num_generations
    completions = questions * samples
    padded = completions * (assumed.longest_prompt + assumed.longest_completion)
    flops = training * padded * arch.parameters * flops_per_token(compute, grpo.beta)
    if compute.use_cpu:
        seconds = _cpu_seconds(arch, assumed, completions) + flops / (assumed.cpu_gflops * 1e9)
        return 1, questions, completions, seconds
    room = _vllm(profile, assumed, profile.slm, training)["room"]
    if not training:
        gpus = compute.gpus_for(profile.slm)
        seconds = _gpu_seconds(arch, assumed, completions, completions, room, gpus)
        return gpus, questions, completions, seconds
    server = int(compute.rollouts == "server")
    engines = server or compute.gpus
    at_once = math.ceil(grpo.questions_per_step * samples / engines)
    sampling = _gpu_seconds(arch, assumed, completions, at_once, room) / engines
    update = flops / (assumed.gpu_tflops * 1e12 * assumed.train_share * compute.gpus)
    return compute.gpus + server, questions, completions, sampling + update


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


def memory(profile: Profile, assumed: pd.Series) -> pd.DataFrame:
    """GiB of one GPU, or of the process on the CPU, at each moment that could be the fullest.

    A column per moment, a row per part, and total; on GPUs also limit, and how many of the longest
    sequences vLLM has room for (NaN if the moment does not fit).
    """
    moments = pd.DataFrame(_moments(profile, assumed)) / GIB
    table = moments.drop(["limit", "room"], errors="ignore")
    table.loc["total"] = table.sum()
    if not profile.compute.use_cpu:
        table.loc["limit"] = moments.loc["limit"]
        fits = table.loc["total"] <= table.loc["limit"]
        table.loc["sequences"] = (moments.loc["room"] // table.loc["longest sequence"]).where(fits)
    return table


def _moments(profile: Profile, assumed: pd.Series) -> dict[str, dict[str, float]]:
    """Bytes of the parts of each moment, with its limit and vLLM's room on GPUs."""
    compute, size = profile.compute, _BYTES[profile.compute.dtype]
    models = {"SLM answers": profile.slm, "LLM answers": profile.llm}
    batch = profile.batch_size * (assumed.longest_prompt + profile.max_new_tokens)
    standing, update = _training_parts(profile, assumed)
    if compute.use_cpu:
        process = {"process": assumed.process_gib * GIB}
        moments = {"update": standing | update | process}
        for name, arch in ((name, architecture_of(model)) for name, model in models.items()):
            cache = batch * 2 * arch.kv_bytes_per_token
            moments[name] = {"weights": 4 * arch.parameters, "keys and values": cache} | process
        return moments
    arch, gpu = architecture_of(profile.slm), compute.memory_gib * GIB
    share = compute.vllm_memory * (compute.rollouts == "colocate")
    limit = {"limit": gpu * (1 - assumed.reserve_share)}
    probe = {  # hidden states of all layers, one layer at work, no logits
        "weights": size * arch.parameters,
        "hidden states": size * batch * (arch.layers + 1) * arch.hidden_size,
        "a layer at work": size * batch * 3 * arch.intermediate_size,
    }
    return {
        "update": standing | update | limit,
        "rollouts": standing | {"vLLM": share * gpu} | limit,
        "vLLM rollouts": _vllm(profile, assumed, profile.slm, training=True),
        **{name: _vllm(profile, assumed, model) for name, model in models.items()},
        "probe": probe | limit,
    }


def _training_parts(profile: Profile, assumed: pd.Series) -> tuple[dict, dict]:
    """Bytes on each GPU that stay through training, and those of a backward pass beside them."""
    arch, compute, grpo = architecture_of(profile.slm), profile.compute, profile.grpo
    trained = arch.lora_parameters(compute.lora_rank) if compute.lora_rank else arch.parameters
    frozen = _BYTES[compute.dtype] * arch.parameters if compute.lora_rank else 0
    shards = 1 if compute.sharding == "none" else compute.training_processes
    rollouts, _ = compute.batch(grpo.questions_per_step * grpo.num_generations)
    tokens = rollouts * (assumed.longest_prompt + grpo.max_completion_length)
    tile = min(tokens, _TILE_TOKENS) * min(arch.vocab_size, _TILE_WORDS)
    embedding = arch.vocab_size * arch.hidden_size
    if compute.sharding == "none":  # mixed precision in 16 bits, gradients that are sent
        mixed, several = compute.dtype == "bfloat16", compute.training_processes > 1
        copies = trained * (2.0 * mixed + 4 * several)
    else:  # gathered: two layers and both embeddings in 16 bits, the output layer in float32
        layers = arch.parameters - embedding * (1 if arch.tied else 2)
        copies = 2 * (2 * layers / arch.layers + 2 * embedding) + 4 * embedding
    standing = {
        "weights": (frozen + 4 * trained) / shards,
        "optimizer": _ADAM * trained / shards,
        "reference model": 4 * arch.parameters * (grpo.beta > 0 and not frozen) / shards,
    }
    return standing, {
        "gradients": 4 * trained / shards,
        "copies of weights": copies + (0 if frozen else 4 * embedding),  # summed output gradient
        "activations": tokens * activation_bytes(arch, compute),
        "logits": _TILE_COPIES * 4 * tile,
    }


def activation_bytes(arch: Architecture, compute: Compute) -> float:
    """Bytes of activations per token that are kept for the backward pass.

    After Korthikanti et al. 2022 (arXiv 2205.05198, section 4), for grouped queries, a gated
    feed-forward layer, no dropout, and fused kernels that do not keep the attention matrix.
    """
    size, h, kv = _BYTES[compute.dtype], arch.hidden_size, arch.kv_size
    norms = 2 * 4 * h + size * 4 * h  # six vectors around two norms, two of them in float32
    attention = size * (3 * h + 3 * kv)  # queries, keys and values, rotated and not; the output
    layer = norms + attention + size * 4 * arch.intermediate_size
    if compute.dtype == "bfloat16" and not compute.lora_rank:
        layer += 2 * 4 * h  # mixed precision: what the norms give, in float32
    if not compute.gradient_checkpointing:
        return arch.layers * layer
    inputs = arch.layers * h * (size if compute.lora_rank else 4)
    return inputs + layer  # each layer's input, and one whole layer computed again


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


def disk(profile: Profile, assumed: pd.Series) -> pd.Series:
    """GiB on disk after `make paper`, with the checkpoints of one run at a time."""
    slm, llm = (architecture_of(model) for model in (profile.slm, profile.llm))
    rank, size = profile.compute.lora_rank, 4 if profile.suite == "mini" else 2
    trained = slm.lora_parameters(rank) if rank else slm.parameters
    frozen = _BYTES[profile.compute.dtype] * slm.parameters if rank else 0
    runs = len(TRAINED) + len(IN_PAPER)
    answers = stages(profile, assumed).filter(like="generate", axis=0)
    sizes = {
        "base models": size * (slm.parameters + llm.parameters),
        "checkpoints of a run while it lasts": _CHECKPOINTS * (4 + _ADAM) * trained,
        f"models of {runs} finished runs": runs * (frozen + 4 * trained),
        "records": answers["completion_tokens"].sum() * assumed.record_bytes,
    }
    return pd.Series(sizes) / GIB


def money(profile: Profile, assumed: pd.Series) -> pd.Series:
    """US dollars: of the machine for all stages in turn; of a service for the questions."""
    table = stages(profile, assumed)
    gpus = max(profile.compute.gpus, int(table["gpus"].max()))
    machine = f"{gpus} x {_gpu_of(profile.compute).name}, {assumed.gpu_hour_price:.2f} an hour each"
    prices = assumed[["llm_prompt_price", "llm_completion_price"]].to_numpy()
    llm = table.loc["generate LLM", ["prompt_tokens", "completion_tokens"]] @ prices / 1e6
    sizes = (architecture_of(model).parameters for model in (profile.slm, profile.llm))
    cascade = PriceList.from_parameters(*sizes).slm.prompt + assumed.deferral
    bills = {
        f"{machine}, all stages": table["seconds"].sum() / 3600 * gpus * assumed.gpu_hour_price,
        "the evaluation's questions, LLM only, from a service": llm,
        f"the same by the cascade, {assumed.deferral:.0%} of them deferred": llm * cascade,
    }
    return pd.Series(bills)


def text(profile: Profile, assumed: pd.Series) -> str:
    """The whole plan, at most `WIDTH` columns wide."""
    compute, on_cpu = profile.compute, profile.compute.use_cpu
    slm, llm = (Path(model).name if on_cpu else model for model in (profile.slm, profile.llm))
    gpus = f"{compute.gpus} x {compute.memory_gib:g} GB, taken for {_gpu_of(compute).name}"
    work = stages(profile, assumed)
    hours = work.pop("seconds") / 3600
    work = work.map("{:,.0f}".format).assign(hours=hours)
    others = [name for name in variants.runs_of(profile) if name not in _RUNS]
    more = stages(profile, assumed, others)["seconds"].sum() / 3600
    gib, fits = memory(profile, assumed), ""
    if not on_cpu:
        over = gib.columns[gib.loc["total"] > gib.loc["limit"]]
        fits = f"DOES NOT FIT: {', '.join(over)}. {_ADVICE}" if len(over) else "All of it fits."
        fits = f"\n{textwrap.fill(fits, WIDTH)}"
    why = _csv("assumptions.csv").query(f"machine != '{'gpu' if on_cpu else 'cpu'}'")["why"]
    reasons = (f"{name:<22}{assumed[name]:>8.4g}  {reason}" for name, reason in why.items())
    wrapped = [textwrap.fill(line, WIDTH, subsequent_indent=" " * 32) for line in reasons]
    sections = {
        f"Plan of PROFILE={profile.name}": f"SLM {slm}, LLM {llm}, {'CPU' if on_cpu else gpus}\n"
        "By sizes and assumptions; no model was loaded. A real run may take half of it, or twice.",
        "Stages": f"{_numbers(work)}\nmake paper: {hours.sum():,.2f} h, one stage after the "
        f"other; make ablations: {more:,.2f} h more.\n"
        "Not counted: start-up, grading, probes, sending weights to vLLM.",
        f"GiB of {'the process' if on_cpu else 'a GPU'}": f"{_numbers(gib)}{fits}",
        "GiB on disk": _numbers(disk(profile, assumed)),
        "US dollars": "" if on_cpu else _numbers(money(profile, assumed)),
        "Assumed (each has its option, --prompt-tokens 300)": "\n".join(wrapped),
    }
    shown = {head: body for head, body in sections.items() if body}
    return "\n\n".join(f"{head}\n{'-' * len(head)}\n{body}" for head, body in shown.items())


def _numbers(table: pd.DataFrame | pd.Series) -> str:
    return table.to_string(float_format="{:,.2f}".format, na_rep="")


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
