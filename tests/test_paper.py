"""`make paper PROFILE=smoke` as a reviewer runs it: killed and started again, and twice with the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from corea.analysis import systems
from corea.analysis.tables import CASCADE_COLUMNS, SLM_COLUMNS
from corea.paper import claims, variants

ROOT = Path(__file__).resolve().parent.parent
KILLS = (
    "data/smoke/runs/*/settings.json",
    "data/smoke/runs/*/checkpoints/checkpoint-2",
    "data/smoke/records/*/*.parquet",
)


def start(folder: Path) -> subprocess.Popen:
    """`make paper` writing under `folder`, in a process group of its own."""
    with open(folder / "make.log", "ab") as log:
        return subprocess.Popen(
            ["make", "paper", "PROFILE=smoke"], cwd=ROOT, env=os.environ | {"COREA_ROOT": str(folder)},
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def finish(folder: Path) -> None:
    assert start(folder).wait(timeout=600) == 0, (folder / "make.log").read_text()[-3000:]


def kill_at(folder: Path, pattern: str) -> None:
    """Start, and SIGKILL the whole group as soon as a file of that pattern lies there."""
    process = start(folder)
    deadline = time.monotonic() + 300
    while not list(folder.glob(pattern)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None and list(folder.glob(pattern)), (folder / "make.log").read_text()[
        -3000:
    ]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(
        1
    )  # notebook kernels have groups of their own; they end when their parent's pipe closes


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    finish(folder)
    return folder


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("interrupted")
    for pattern in KILLS:
        kill_at(folder, pattern)
    finish(folder)
    return folder


def test_a_run_killed_three_times_ends_with_the_same_bytes(whole, interrupted):
    found = {path.relative_to(whole) for path in (whole / "figures").rglob("*.*")}
    assert len(found) > 20
    for path in sorted(found):
        assert (interrupted / path).read_bytes() == (whole / path).read_bytes(), path
    for path in (whole / "data/smoke/records").rglob("*.parquet"):
        assert (interrupted / path.relative_to(whole)).read_bytes() == path.read_bytes(), path


def test_the_tables_have_the_promised_rows_and_columns(whole):
    slm = pd.read_csv(whole / "figures/smoke/table_slm.csv")
    together = pd.read_csv(whole / "figures/smoke/table_cascade.csv")
    verbalized = pd.read_csv(whole / "figures/smoke/table_verbalized.csv")
    assert list(slm) == SLM_COLUMNS and list(verbalized) == CASCADE_COLUMNS
    assert list(together) == ["rule", *CASCADE_COLUMNS]
    assert set(slm["system"]) == {"SLM", "RLVR-SLM", "Brier-SLM", "L1-SLM", "LLM"}
    assert set(verbalized["system"]) == {
        "SLM-Verb",
        "RLVR-SLM-Verb",
        "Brier-SLM-Verb",
        "L1-SLM-Verb",
        "LLM",
    }
    assert {system.name for system in (*systems.PAPER, *systems.OURS)} | {"COREA+"} == set(
        together["system"]
    )
    assert {"LLM Pass@1", "equal budget", "equal Pass@1"} == set(together["rule"])
    for table in (slm, verbalized, together[together["rule"] == "LLM Pass@1"]):
        assert set(table["group"]) == {"in-domain", "ood-math", "ood-nonmath"}
        assert (
            table.groupby(["system", "group"])["dataset"].apply(lambda names: "mean" in set(names))
        ).all()


def test_the_small_set_of_ablations_ran_and_the_claims_are_there(whole):
    runs = {path.parent.name for path in whole.glob("data/smoke/ablations/*/complete.json")}
    assert runs == set(variants.IN_PAPER)
    table = pd.read_csv(whole / "figures/smoke/claims.csv")
    assert list(table) == claims.COLUMNS and len(table) == len(pd.read_csv(claims.CLAIMS))
    assert pd.read_csv(whole / "figures/smoke/table_ablation_target.csv")[
        "value"
    ].unique().tolist() == ["group", "sample"]


def test_a_finished_run_does_nothing_but_draw_again(whole):
    before = {
        path: path.stat().st_mtime_ns for path in (whole / "data/smoke/records").rglob("*.parquet")
    }
    finish(whole)
    assert {
        path: path.stat().st_mtime_ns for path in (whole / "data/smoke/records").rglob("*.parquet")
    } == before


def test_nothing_half_written_and_no_pickle_is_left(interrupted):
    assert not [path for path in interrupted.rglob("*") if ".part" in path.name]
    assert not [
        path for path in interrupted.rglob("*") if path.suffix in (".pt", ".pth", ".bin", ".pkl")
    ]
