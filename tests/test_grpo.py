"""The GRPO layer: real steps on the shipped SLM, resumed exactly after a kill, stopped if it must.

Not on an untrained model: its rollouts all earn the same, so that no weight would move and any
resume would look exact.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from corea import _callbacks, _training_log, grpo
from corea.engines.loading import load_model
from corea.grpo import GRPOSettings
from corea.paper.profiles import load_profile
from corea.questions.load import load_questions
from corea.rewards import REWARDS
from corea.support.hardware import Compute

SETTINGS = GRPOSettings(
    steps=4,
    questions_per_step=2,
    num_generations=4,
    learning_rate=1e-3,
    beta=0.03,
    max_completion_length=48,
    save_steps=2,
)
SCRIPT = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
from tests import test_grpo as t
t.train_tiny(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def train_tiny(base: Path, folder: Path, compute: Compute | None = None, **changes) -> grpo.Run:
    questions = load_questions("drill", "train", size=24)
    settings = dataclasses.replace(SETTINGS, **changes)
    return grpo.train(
        base,
        questions,
        folder,
        reward=REWARDS["L1"],
        settings=settings,
        name="tiny",
        compute=compute,
        instruction=None,
        show_progress=False,
    )


@pytest.fixture(scope="module")
def base() -> Path:
    return Path(load_profile("cpu").slm)


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    return train_tiny(base, tmp_path_factory.mktemp("finished"))


def test_a_run_trains_and_logs_every_part_at_every_step(base, finished):
    log = finished.log()
    assert set(log["metric"]) == set(_training_log.METRICS.values())
    assert (log.groupby("metric")["step"].apply(list).map(lambda s: s == [1, 2, 3, 4])).all()
    assert grpo.fingerprint(finished.model) != grpo.fingerprint(base)
    assert not (finished.folder / "checkpoints").exists()
    assert not list(finished.folder.rglob("*.bin")), "a pickle was left in the run"


SMALL_MEMORY = Compute(dtype="bfloat16", lora_rank=4, micro_batch=2, gradient_checkpointing=True)


def test_an_adapter_in_half_precision_trains_in_small_batches_and_is_merged(
    base, finished, tmp_path
):
    """All that spares memory at once: only the adapter moves, and base plus adapter is saved."""
    run = train_tiny(base, tmp_path / "run", SMALL_MEMORY)
    assert run.settings != finished.settings and run.log()["step"].max() == SETTINGS.steps
    from safetensors.torch import load_file

    adapter = load_file(run.folder / "adapter" / "adapter_model.safetensors")
    names = {name.rsplit(".lora_", 1)[0].removeprefix("base_model.model.") for name in adapter}
    before, after = (
        dict(load_model(m, dtype="bfloat16").named_parameters()) for m in (base, run.model)
    )
    moved = {name.removesuffix(".weight") for name in before if not before[name].equal(after[name])}
    assert moved and moved <= names, "weights moved that no adapter stands on"
    name = sorted(moved)[0]
    a, b = (adapter[f"base_model.model.{name}.lora_{part}.weight"].float() for part in "AB")
    added = (after[f"{name}.weight"] - before[f"{name}.weight"]).float()
    assert (added - 2 * b @ a).abs().max() < 0.01 * before[f"{name}.weight"].float().abs().max()


def test_small_batches_see_the_same_rollouts_and_rewards(base, finished, tmp_path):
    run = train_tiny(base, tmp_path / "run", Compute(micro_batch=2))
    assert run.settings == finished.settings, (
        "how a step is dealt out is no part of what is trained"
    )
    first = [
        log[(log["step"] == 1) & ~log["metric"].isin(["KL to base"])]
        for log in (run.log(), finished.log())
    ]
    pd.testing.assert_frame_equal(*first, rtol=1e-3)


def test_a_finished_run_is_not_trained_again(base, finished):
    before = (finished.model / "model.safetensors").stat().st_mtime_ns
    assert train_tiny(base, finished.folder) == finished
    assert (finished.model / "model.safetensors").stat().st_mtime_ns == before


def test_other_settings_in_the_same_folder_are_refused(base, finished):
    with pytest.raises(ValueError, match="made with other settings"):
        train_tiny(base, finished.folder, learning_rate=2e-3)


def test_killed_at_any_moment_a_run_goes_on_to_the_same_weights_and_log(base, finished, tmp_path):
    """SIGKILL at several moments, among them while the first checkpoint is being written."""
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-c", SCRIPT, str(base), str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": str(root)}
    process = subprocess.Popen(command, cwd=root, env=environment, start_new_session=True)
    first = tmp_path / "run" / "checkpoints" / "checkpoint-2"
    deadline = time.monotonic() + 120
    while not first.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert first.exists(), "the run ended before its first checkpoint"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run" / grpo.COMPLETE).exists()
    subprocess.run(command, cwd=root, env=environment, check=True, timeout=300)
    for name in ("model/model.safetensors", "log.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (finished.folder / name).read_bytes(), name


def test_resuming_from_a_whole_checkpoint_gives_the_same_bytes(
    base, finished, tmp_path, monkeypatch
):
    def stop(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_callbacks.Watch, "on_step_end", stop, raising=False)
        train_tiny(base, tmp_path)
    assert grpo._last_whole_checkpoint(tmp_path).endswith("checkpoint-2")
    train_tiny(base, tmp_path)
    for name in ("model/model.safetensors", "log.csv"):
        assert (tmp_path / name).read_bytes() == (finished.folder / name).read_bytes(), name


def test_a_checkpoint_without_its_mark_is_not_resumed_from(tmp_path):
    for step, whole in ((2, True), (4, True), (6, False)):
        folder = tmp_path / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        if whole:
            (folder / grpo.COMPLETE).write_text(json.dumps({"step": step}))
    assert grpo._last_whole_checkpoint(tmp_path).endswith("checkpoint-4")
    grpo._remove_cut_off(tmp_path)
    assert not (tmp_path / "checkpoints" / "checkpoint-6").exists()


def log_of(accuracy, confidence_reward) -> pd.DataFrame:
    rows = [("r", n, "accuracy", a) for n, a in enumerate(accuracy)]
    rows += [("r", n, "confidence reward", c) for n, c in enumerate(confidence_reward)]
    return pd.DataFrame(rows, columns=["run", "step", "metric", "value"])


@pytest.mark.parametrize(
    ("accuracy", "reward", "alarm"),
    [
        ([0.4] * 20 + [0.01] * 20, [-0.5] * 20 + [-0.01] * 20, True),
        ([0.4] * 20 + [0.3] * 20, [-0.5] * 20 + [-0.01] * 20, False),
        ([0.4] * 20 + [0.01] * 20, [-0.5] * 20 + [-0.6] * 20, False),
        ([0.4] * 20 + [0.01] * 10, [-0.5] * 20 + [-0.01] * 10, False),
    ],
    ids=["collapsed", "accuracy holds", "the confidence reward fell too", "too few steps to tell"],
)
def test_the_alarm_rings_for_a_collapse_and_for_nothing_else(accuracy, reward, alarm):
    assert (_training_log.collapse(log_of(accuracy, reward)) is not None) is alarm


def test_a_collapsing_run_is_stopped(base, tmp_path, monkeypatch):
    monkeypatch.setattr(
        _callbacks, "collapse", lambda log: "accuracy fell" if log["step"].max() >= 2 else None
    )
    with pytest.raises(grpo.CollapseError, match="stopped at step 2: accuracy fell"):
        train_tiny(base, tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_generations": 1}, "num_generations=1 makes no group"),
        ({"steps": 0}, "must all be 1 or more"),
    ],
)
def test_settings_that_make_no_run_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(SETTINGS, **changes)


def test_questions_that_share_an_id_are_refused():
    question = load_questions("drill", "train", size=1)[0]
    with pytest.raises(ValueError, match="share an id"):
        grpo.training_set([question, question])
