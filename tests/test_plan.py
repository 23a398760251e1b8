"""The plan of a run: its formulas against published, real and measured counts, and what it prints."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import subprocess
import sys
import time

import pandas as pd
import pytest

from corea.paper import plan
from corea.paper.profiles import PROFILES, ROOT, load_profile
from corea.paper.runs import records_path
from corea.paper.variants import SYSTEMS
from corea.questions.base import test_datasets as datasets_of
from corea.support.hardware import Compute
from corea.support.models import ARCHITECTURES, REVISIONS, Architecture, architecture_of
from tests import measure

QWEN_7B = ARCHITECTURES["Qwen/Qwen2.5-7B-Instruct"]
PUBLISHED = {
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen2.5-32B-Instruct": 32_763_876_352,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
}


def changed(name: str, **changes):
    """A profile with other settings of its machine."""
    profile = load_profile(name)
    return profile.replace(compute=dataclasses.replace(profile.compute, **changes))


def memory_of(profile):
    return plan.memory(profile, plan.assumptions_for(profile)).fillna(0)


def part(profile, moment: str, name: str) -> float:
    table = memory_of(profile)
    return table[moment][name] if name in table.index else 0.0


def too_full(profile) -> list[str]:
    """The moments that do not fit."""
    table = memory_of(profile)
    return list(table.columns[table.loc["total"] > table.loc["limit"]])


def stages_of(profile, **given):
    """The stages of `make paper`, by name."""
    return plan.stages(profile, plan.assumptions_for(profile, **given))


# --- sizes


@pytest.mark.parametrize(("model", "count"), PUBLISHED.items())
def test_a_hub_model_has_as_many_parameters_as_published(model, count):
    assert architecture_of(model).parameters == count


def test_every_hub_model_is_checked():
    assert set(PUBLISHED) == set(ARCHITECTURES) == set(REVISIONS)


@pytest.mark.parametrize("side", ["slm", "llm"])
def test_a_shipped_model_has_as_many_parameters_as_its_file(side):
    from safetensors import safe_open

    folder = getattr(load_profile("cpu"), side)
    with safe_open(f"{folder}/model.safetensors", "np") as file:
        assert architecture_of(folder).parameters == sum(
            file.get_tensor(name).size
            for name in file.keys()  # noqa: SIM118
        )


@pytest.fixture(scope="module")
def tiny():
    """A Qwen2 with grouped queries, untied embeddings, and sizes that all differ."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=208, vocab_size=300,
        tie_word_embeddings=False,
    )  # fmt: skip
    return Qwen2ForCausalLM(config), Architecture(2, 64, 4, 2, 208, 300, tied=False)


def test_parameters_and_adapter_are_those_that_transformers_and_peft_make(tiny):
    from peft import get_peft_model

    from corea.grpo import _adapter

    model, arch = tiny
    assert arch.parameters == sum(p.numel() for p in model.parameters())
    adapted = get_peft_model(copy.deepcopy(model), _adapter(3))
    assert arch.lora_parameters(3) == sum(
        p.numel() for p in adapted.parameters() if p.requires_grad
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_are_about_what_autograd_keeps(tiny, dtype):
    """Bytes of every tensor that a forward pass of the layers saves, each storage once, without weights and their copies."""
    import torch

    model, arch = tiny
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    mixed = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")
    with mixed, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        held = model.model(torch.zeros(4, 128, dtype=torch.long), use_cache=False)
    assert held is not None
    real = sum(size for storage, size in kept.items() if storage not in weights)
    if dtype == "bfloat16":
        real -= 2 * sum(p.numel() for p in model.model.layers.parameters())
    assert plan.activation_bytes(arch, Compute(dtype=dtype)) == pytest.approx(
        real / (4 * 128), rel=0.1
    )


def test_bytes_of_keys_and_values_by_hand():
    assert (
        QWEN_7B.kv_bytes_per_token == 2 * 2 * 28 * 4 * 128 == 57_344
    )  # keys and values, 2 bytes, 28 layers, 4 heads of 128


# --- questions, tokens, time


def test_questions_of_the_paper_suite_by_hand():
    sizes = plan.evaluation_sizes(load_profile("paper"))
    assert tuple(sizes) == ("calibration", *datasets_of("paper"))
    assert sum(sizes.values()) == 500 + 500 + 500 + 1319 + 674 + 198 + 1221
    small = plan.evaluation_sizes(load_profile("single-gpu"))
    assert small["gpqa"] == 198 and small["gsm8k"] == 200, "a set may hold fewer than are asked for"


def test_stages_of_the_cpu_profile_count_what_its_records_hold():
    profile = load_profile("cpu")
    assumed = plan.assumptions_for(profile)
    table = stages_of(profile)
    assert table["completions"]["generate LLM"] == 12_400, "rows of the tracked records"
    assert table["completions"]["train L1-SLM"] == 200 * 32 * 8
    assert table["completion_tokens"]["train L1-SLM"] == pytest.approx(
        200 * 32 * 8 * assumed.completion_tokens
    )


def test_lengths_of_the_mini_world_are_those_of_the_tracked_records():
    assumed = plan.assumptions_for(load_profile("cpu"))
    path = records_path(load_profile("cpu").reference(), "SLM", "calibration")
    tokens = pd.read_parquet(path, columns=["prompt_tokens", "completion_tokens"])
    means, longest = tokens.mean(), tokens.max()
    for kind in ("prompt", "completion"):
        assert assumed[f"{kind}_tokens"] == pytest.approx(means[f"{kind}_tokens"]), (
            "assumptions.csv"
        )
        assert assumed[f"longest_{kind}"] == longest[f"{kind}_tokens"], "assumptions.csv"


def test_training_flops_by_hand():
    assert plan.flops_per_token(Compute(), beta=0) == 6
    everything = Compute(gpus=1, gradient_checkpointing=True, rollouts="colocate")
    assert plan.flops_per_token(everything, beta=0.1) == 6 + 2 + 2 + 2
    assert plan.flops_per_token(dataclasses.replace(everything, lora_rank=8), beta=0.1) == 10


def test_sampling_one_sequence_is_bound_by_reading_the_weights():
    assumed = plan.assumptions_for(
        load_profile("paper"), prompt_tokens=1e-6, completion_tokens=100, bandwidth_share=1
    )
    took = plan._gpu_seconds(QWEN_7B, assumed, 1, 1, room=80 * 2**30)
    bytes_ = 2 * QWEN_7B.parameters + 100 * QWEN_7B.kv_bytes_per_token
    assert took == pytest.approx(100 * bytes_ / 3.35e12, rel=1e-6)


def test_more_gpus_and_more_room_take_less_time():
    def hours(profile):
        return stages_of(profile)["seconds"].sum()

    assert (
        hours(changed("paper", gpus=16))
        < hours(load_profile("paper"))
        < hours(changed("paper", gpus=4))
    )
    assert hours(changed("single-gpu", vllm_memory=0.5)) <= hours(load_profile("single-gpu"))
    assert hours(changed("paper", gradient_checkpointing=False)) < hours(load_profile("paper"))


def test_a_server_of_rollouts_is_one_more_gpu_that_training_waits_for():
    server = stages_of(changed("paper", rollouts="server"))
    assert server["gpus"]["train L1-SLM"] == 9
    assert (
        server["seconds"]["train L1-SLM"]
        > stages_of(load_profile("paper"))["seconds"]["train L1-SLM"]
    )


# --- memory


def test_full_training_needs_what_adam_needs():
    """Without sharding: 4 bytes for weights, 4 for gradients, 8 for Adam, 4 for the reference model, for each parameter."""
    profile = changed("paper", sharding="none")
    per_parameter = {"weights": 4, "gradients": 4, "optimizer": 8, "reference model": 4}
    for name, bytes_ in per_parameter.items():
        assert part(profile, "update", name) == pytest.approx(
            bytes_ * QWEN_7B.parameters / 2**30
        ), name


@pytest.mark.parametrize("name", ["weights", "gradients", "optimizer", "reference model"])
def test_sharding_divides_by_the_gpus(name):
    eight, sixteen, none = (
        part(p, "update", name)
        for p in (
            load_profile("paper"),
            changed("paper", gpus=16),
            changed("paper", sharding="none"),
        )
    )
    assert none == pytest.approx(8 * eight) == pytest.approx(16 * sixteen)


def test_without_a_kl_term_or_with_an_adapter_there_is_no_reference_model():
    paper = load_profile("paper")
    assert (
        part(
            paper.replace(grpo=dataclasses.replace(paper.grpo, beta=0.0)),
            "update",
            "reference model",
        )
        == 0
    )
    assert part(load_profile("single-gpu"), "update", "reference model") == 0


def test_checkpointing_adapters_and_small_batches_save_memory():
    assert (
        part(load_profile("paper"), "update", "activations")
        < part(changed("paper", gradient_checkpointing=False), "update", "activations") / 5
    )
    assert (
        part(changed("paper", lora_rank=32), "update", "optimizer")
        < part(load_profile("paper"), "update", "optimizer") / 20
    )
    assert (
        part(changed("paper", micro_batch=2), "update", "activations")
        == part(load_profile("paper"), "update", "activations") / 2
    )


def test_room_for_sequences_by_hand():
    """Beside weights and 1 GiB of work, vLLM's .3 of 80 GB has room for 2,548 tokens so often."""
    sequence = 2548 * QWEN_7B.kv_bytes_per_token
    room = (0.3 * 80 - 1) * 2**30 - 2 * QWEN_7B.parameters
    assert part(load_profile("paper"), "vLLM rollouts", "sequences") == room // sequence == 64
    crowded = plan.memory(full := changed("paper", vllm_memory=0.1), plan.assumptions_for(full))
    assert math.isnan(crowded["vLLM rollouts"]["sequences"]), "its weights alone do not fit"
    assert math.isnan(crowded["update"]["sequences"]), "nothing is sampled then"


def test_rollouts_on_24_gib_fit_by_hand():
    """Weights, Adam and reference over 8 GPUs: 4 + 8 + 4 bytes a parameter; vLLM's .3; .92 of a GPU may be filled."""
    total = 16 * 7_615_616_512 / 8 / 2**30 + 0.3 * 24
    table = memory_of(changed("paper", memory_gib=24))["rollouts"]
    assert table["total"] == pytest.approx(total) == pytest.approx(21.385, abs=1e-3)
    assert table["limit"] == pytest.approx(0.92 * 24) and total < 0.92 * 24


def test_memory_of_the_probe_by_hand():
    """16 rows of 500 + 2048 tokens in 16 bits: 29 states of 3584, 3 vectors of 18944, and no logits."""
    profile, tokens = load_profile("paper"), 16 * 2548
    assert part(profile, "probe", "hidden states") == pytest.approx(2 * tokens * 29 * 3584 / 2**30)
    assert part(profile, "probe", "a layer at work") == pytest.approx(
        2 * tokens * 3 * 18944 / 2**30
    )
    assert part(profile, "probe", "logits") == 0


# --- does it fit


@pytest.mark.parametrize("name", ["paper", "single-gpu"])
def test_a_shipped_profile_fits(name):
    profile = load_profile(name)
    for model in (profile.slm, *profile.backbones):
        assert too_full(profile.replace(slm=model)) == []
    assert "All of it fits." in plan.text(profile, plan.assumptions_for(profile))


@pytest.mark.parametrize(
    ("name", "changes", "moments"),
    [
        ("paper", {"sharding": "none"}, ["update", "rollouts"]),  # 7B whole on each GPU
        ("paper", {"memory_gib": 24}, ["update", "vLLM rollouts", "probe"]),
        ("paper", {"gradient_checkpointing": False, "micro_batch": 16}, ["update"]),
        ("paper", {"vllm_memory": 0.1}, ["vLLM rollouts"]),  # less than vLLM's own weights
        ("single-gpu", {"vllm_memory": 0.9}, ["rollouts"]),  # and here it leaves too little
        ("single-gpu", {"lora_rank": 0}, ["update", "rollouts"]),
    ],
)
def test_a_plan_names_the_moments_that_do_not_fit_and_what_helps(name, changes, moments):
    profile = changed(name, **changes)
    assert too_full(profile) == moments
    said = " ".join(plan.text(profile, plan.assumptions_for(profile)).split())
    assert f"DOES NOT FIT: {', '.join(moments)}. What usually helps" in said


def test_a_large_batch_of_the_probe_does_not_fit():
    assert too_full(load_profile("single-gpu").replace(batch_size=256)) == ["probe"]


def test_a_gpu_without_vllm_is_refused_in_one_line():
    profile = changed("single-gpu", rollouts="transformers")
    with pytest.raises(ValueError, match="needs engine='vllm', rollouts='colocate' or 'server'"):
        plan.stages(profile, plan.assumptions_for(profile))


# --- disk and money


def test_disk_by_hand():
    profile = load_profile("paper")
    sizes = plan.disk(profile, plan.assumptions_for(profile))
    assert sizes["base models"] == pytest.approx(2 * (7_615_616_512 + 32_763_876_352) / 2**30)
    assert sizes["checkpoints of a run while it lasts"] == pytest.approx(
        3 * 12 * 7_615_616_512 / 2**30
    )
    assert sizes["records"] == pytest.approx((5 * 19_648 + 3 * 9_824) * 0.35 * 2048 * 4 / 2**30)


def test_money_follows_hours_prices_and_deferral():
    profile = load_profile("paper")
    bills = []
    for given in (
        {},
        {"gpu_hour_price": 5},
        {"deferral": 1},
        {"llm_prompt_price": 1.6, "llm_completion_price": 1.6},
    ):
        assumed = plan.assumptions_for(profile, **given)
        bills.append(plan.money(profile, assumed).to_list())
    (machine, alone, cascade), dear, all_deferred, twice = bills
    assert dear[0] == pytest.approx(2 * machine) and twice[1:] == pytest.approx(
        [2 * alone, 2 * cascade]
    )
    assert cascade < alone < all_deferred[2], "deferring everything costs the SLM's tokens on top"
    assert machine > 0 and alone == pytest.approx(19_648 * (250 + 0.35 * 2048) * 0.8 / 1e6)


# --- the measured run


def test_speeds_of_a_core_are_those_measured():
    assumed = plan.assumptions_for(load_profile("cpu"))
    gflops, bandwidth = measure.speeds(json.loads(measure.MEASURED.read_text())["stages"])
    assert assumed.cpu_gflops == pytest.approx(gflops, rel=1e-5), "assumptions.csv"
    assert assumed.cpu_bandwidth == pytest.approx(bandwidth, rel=1e-5), "assumptions.csv"


def test_a_faster_core_makes_every_estimate_faster():
    profile = load_profile("cpu")
    slow = stages_of(profile)["seconds"]
    assumed = plan.assumptions_for(profile)
    fast = stages_of(
        profile, cpu_gflops=2 * assumed.cpu_gflops, cpu_bandwidth=2 * assumed.cpu_bandwidth
    )["seconds"]
    assert list(fast) == pytest.approx(list(slow / 2))


def test_estimates_of_the_cpu_run_are_of_the_right_size():
    """What the speeds were taken from is not compared: it would agree by construction."""
    profile, measured = load_profile("cpu"), json.loads(measure.MEASURED.read_text())["stages"]
    estimated, gib = stages_of(profile), memory_of(profile).loc["total"]
    for stage, moment in (("train L1-SLM", "update"), ("generate LLM", "LLM answers")):
        real, row = measured[stage], estimated.loc[stage]
        seconds = row["seconds"] * real["completions"] / row["completions"]
        assert 0.5 < seconds / real["seconds"] < 2, stage
        assert 0.5 < gib[moment] / real["memory_gib"] < 2, stage
    for system in SYSTEMS:
        row, real = estimated.loc[f"generate {system}"], 0
        for dataset in ("calibration", *datasets_of(profile.suite)):
            path = records_path(profile.reference(), system, dataset)
            tokens = pd.read_parquet(path, columns=["prompt_tokens", "completion_tokens"])
            real += tokens.sum().sum()
        assert 0.5 < (row["prompt_tokens"] + row["completion_tokens"]) / real < 2, system


def test_measuring_writes_what_the_speeds_are_taken_from(tmp_path):
    path = tmp_path / "measured.json"
    made = measure.measure(load_profile("smoke"), path, steps=1, questions=4)
    assert json.loads(path.read_text()) == made
    tracked = json.loads(measure.MEASURED.read_text())
    assert list(made) == list(tracked)
    assert {name: list(stage) for name, stage in made["stages"].items()} == {
        name: list(stage) for name, stage in tracked["stages"].items()
    }


# --- what is printed


def test_the_command_takes_seconds():
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "corea.paper.plan", "--profile", "paper"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (
        done.returncode == 0 and done.stdout.startswith("Plan of PROFILE=paper") and not done.stderr
    )
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_a_plan_is_printed_in_its_width_and_names_its_assumptions(name, capsys):
    assert plan.main(["--profile", name]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= plan.WIDTH
    for word in (
        "Assumed",
        "prompt_tokens",
        "completion_tokens",
        "train L1-SLM",
        "generate LLM",
        "GiB",
        "make paper:",
    ):
        assert word in said
    for value in ("nan", "inf "):
        assert value not in said


def test_assumptions_can_be_given(capsys):
    assert (
        plan.main(["--profile", "paper", "--prompt-tokens", "1000", "--gpu-hour-price", "9"]) == 0
    )
    said = capsys.readouterr().out
    assert "prompt_tokens             1000" in said and "9.00 an hour each" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--profile", "papr"], "unknown profile 'papr'; use one of cpu, paper, single-gpu, smoke"),
        (["--profile", "paper", "--prompt-tokens", "-3"], "--prompt-tokens=-3 must be above 0"),
        (
            ["--profile", "paper", "--train-share", "1.5"],
            "--train-share=1.5 must be above 0 and at most 1",
        ),
        (
            ["--profile", "paper", "--deferral", "nan"],
            "--deferral=nan must be 0 or more and at most 1",
        ),
    ],
)
def test_a_wrong_argument_is_one_clear_line(given, said, capsys):
    assert plan.main(given) == 1
    shown = capsys.readouterr()
    assert said in shown.err and shown.err.count("\n") == 1 and not shown.out
