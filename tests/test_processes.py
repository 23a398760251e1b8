"""Several processes: exact group means, real runs under `accelerate launch`, and what is refused.

Real processes that speak over gloo on the CPU.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from corea import _training_log, grpo
from corea.grader import Grader
from corea.rewards import confidence_reward
from corea.support import processes
from corea.support.hardware import CONFIGURATIONS, Compute
from tests import distributed

ROOT = Path(__file__).resolve().parent.parent


def in_processes(number: int, what: str, folder: Path) -> list[str]:
    """Run `tests.distributed` in that many processes; returns what those that failed said."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir()
    shared = {"WORLD_SIZE": str(number), "OMP_NUM_THREADS": "1"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.distributed", what, str(folder)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(number)
    ]
    return [
        error
        for process in started
        if (error := process.communicate(timeout=120)[1]) and process.returncode
    ]


def written(folder: Path) -> list:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("alone") / "1"
    assert in_processes(1, "rewards", folder) == []
    (found,) = written(folder)
    return found


@pytest.mark.parametrize(
    "number", [2, 4], ids=["2: one group straddles", "4: every group straddles"]
)
def test_rewards_of_several_processes_are_those_of_one_to_the_last_bit(number, alone, tmp_path):
    assert in_processes(number, "rewards", tmp_path / "parts") == []
    parts = written(tmp_path / "parts")
    assert len(parts) == number
    for nth, whole in enumerate(alone["rewards"]):
        assert [x for part in parts for x in part["rewards"][nth]] == whole
    assert all(part["logged"] == alone["logged"] for part in parts), (
        "what is logged is of all rollouts, in every process"
    )


def test_rewards_of_one_process_are_those_without_any(alone):
    with Grader() as grader:
        found = confidence_reward(**distributed.columns(distributed.rollouts()), grader=grader)
    assert [x.hex() for x in found] == alone["rewards"][0] and len(set(found)) > 3


def test_groups_that_are_not_whole_over_all_processes_are_refused_in_each(tmp_path):
    errors = in_processes(2, "broken", tmp_path / "parts")
    assert len(errors) == 2
    for error in errors:
        assert "'q2' has 2 rows in this call, not a multiple of num_generations=4" in error
        assert "per_device_train_batch_size x processes x steps_per_generation" in error


def test_processes_that_cannot_speak_with_each_other_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ValueError,
        match=r"2 processes were launched together, but torch\.distributed is not set up",
    ):
        processes.gathered([1])


@pytest.mark.parametrize(("number", "micro_batch"), [(2, 3), (4, 0)])
def test_a_real_run_by_accelerate_gives_rewards_of_whole_groups(number, micro_batch, tmp_path):
    """TRL deals three questions' twelve rollouts to 2 or 4 processes: groups straddle them."""
    command = Compute(processes=number).launch_command()
    processes.launch(command, "tests.distributed", "train", str(tmp_path), str(micro_batch))
    parts = written(tmp_path)
    assert len(parts) == number
    with Grader() as grader:
        reward = functools.partial(confidence_reward, num_generations=4, grader=grader)
        for step in zip(*parts, strict=True):
            names = ("question_id", "gold", "answer_type", "texts", "found")
            rows = {name: [x for part in step for x in part[name]] for name in names}
            texts, found = rows.pop("texts"), rows.pop("found")
            assert [x.hex() for x in reward(completions=texts, **rows)] == found
            split = [
                q
                for q in set(rows["question_id"])
                if sum(q in part["question_id"] for part in step) > 1
            ]
            assert split, (
                "no group straddles two processes: a mean over a part of a group would pass"
            )
    run = tmp_path / "run"
    assert (run / "model" / "model.safetensors").exists() and (run / grpo.COMPLETE).exists()
    assert not (run / "checkpoints").exists()
    assert len((run / "log.csv").read_text().splitlines()) == 1 + 2 * len(_training_log.METRICS)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"processes": 5},
            "12 rollouts a step cannot be dealt out to 5 processes; "
            "use 1, 2, 3, 4, 6, 12 processes",
        ),
        (
            {"processes": 2, "micro_batch": 4},
            "micro_batch=4 does not divide the 6 rollouts of a process; use one of 1, 2, 3, 6",
        ),
    ],
)
def test_rollouts_that_cannot_be_dealt_out_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        Compute(**changes).batch(12)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sharding": "zero2"}, "sharding='zero2' is not one of none, fsdp2, zero3"),
        ({"lora_rank": -1}, "lora_rank=-1 must be 0 or more"),
        ({"sharding": "fsdp2"}, "need gpus of 1 or more"),
        ({"rollouts": "server"}, "need gpus of 1 or more"),
        ({"vllm_memory": 1.5}, "vllm_memory=1.5 must be between 0 and 1"),
    ],
)
def test_compute_out_of_range_is_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        Compute(**changes)


@pytest.mark.parametrize("name", ["cpu", "ddp", "fsdp2", "zero3"])
def test_configurations_are_what_accelerate_reads(name, monkeypatch):
    """Read by accelerate's own loader, which refuses unknown keys, and turned into its plugin."""
    from accelerate.commands.config.config_args import load_config_from_file

    path = CONFIGURATIONS / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert (
        config.mixed_precision == ("no" if name == "cpu" else "bf16")
        and str(config.compute_environment) == "ComputeEnvironment.LOCAL_MACHINE"
    )
    if name == "fsdp2":
        from accelerate.utils import FullyShardedDataParallelPlugin

        for key, value in yaml.safe_load(path.read_text())["fsdp_config"].items():
            monkeypatch.setenv(
                key.upper() if key.startswith("fsdp") else f"FSDP_{key.upper()}",
                str(value).lower() if isinstance(value, bool) else str(value),
            )
        plugin = FullyShardedDataParallelPlugin()
        assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
        assert plugin.state_dict_type.name == "SHARDED_STATE_DICT"
    if name == "zero3":
        assert config.deepspeed_config["zero_stage"] == 3
        assert config.deepspeed_config["zero3_save_16bit_model"] is True, (
            "or the trained model could not be gathered"
        )


def test_a_profile_is_launched_by_its_configuration():
    one = Compute(gpus=1, sharding="none")
    assert one.launch_command() is None
    command = Compute(gpus=8, sharding="fsdp2").launch_command()
    assert command[-2:] == ["--num_processes", "8"] and Path(command[2]).exists()


def test_a_failed_process_is_one_error_that_shows_what_it_said():
    with pytest.raises(
        RuntimeError,
        match=r"failed in several processes \(status 1\): .*No module named tests.no_such_module$",
    ):
        processes.launch(Compute(processes=2).launch_command(), "tests.no_such_module")
