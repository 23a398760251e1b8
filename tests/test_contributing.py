"""CONTRIBUTING.md does what it says: its code runs as it stands, and its table of rooms is how the modules import each other."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest

from corea import cli, comparisons, hubsets, mini, pipeline, rewards, systems, tasks
from tests.tiny import save_tiny

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.S)
DOWN = {("tasks", "hubsets"), ("grpo", "callbacks")}
TABLES = (
    (hubsets, "SETS"), (tasks, "DATASETS"), (mini, "FAMILIES"), (rewards, "DISTANCES"), (rewards, "REWARDS"),
    (systems, "SOURCES"), (tasks.SUITES, "mini"), (tasks.SUITES, "paper"),
)  # fmt: skip


@pytest.fixture(autouse=True)
def tables_put_back(monkeypatch):
    """What a block adds to the library's tables is gone after the test."""
    for owner, name in TABLES:
        if isinstance(owner, dict):
            monkeypatch.setitem(owner, name, dict(owner[name]))
        else:
            monkeypatch.setattr(owner, name, dict(getattr(owner, name)))


def run(part: str) -> dict:
    """The names that the one block of code with this text in it leaves behind; it has under 20 lines."""
    (code,) = (block for block in BLOCKS if part in block)
    assert len([line for line in code.splitlines() if line.strip()]) < 20
    names: dict = {}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    return names


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_every_block_is_run():
    assert len(BLOCKS) == 6
    for text in ("load_jsonl", "HubSet", "mini.FAMILIES", "DISTANCES", "SOURCES", "Platt"):
        assert sum(text in block for block in BLOCKS) == 1, text


# --- how to add -----------------------------------------------------------------------------------


def test_a_question_set_of_ones_own(tmp_path, monkeypatch):
    real = tasks.load_questions("shopping", "test", size=8)
    write_lines(tmp_path / "questions.jsonl", [{"question": q.text, "answer": q.gold} for q in real])
    monkeypatch.chdir(tmp_path)
    found = run("load_jsonl")["questions"]
    assert [(q.text, q.gold, q.dataset) for q in found] == [(q.text, q.gold, "questions") for q in real]


def test_a_set_of_the_hub(tmp_path, monkeypatch):
    real = tasks.load_questions("weave", "test", size=24)
    write_lines(tmp_path / "riddles" / "all.jsonl", [{"problem": q.text, "solution": q.gold, "topic": "weaving"} for q in real])
    monkeypatch.setenv("COREA_HUB", str(tmp_path))
    found = run("HubSet")["questions"]
    assert len(found) == 8 and {q.text for q in found} <= {q.text for q in real}
    assert {(q.dataset, q.family, tasks.group_of(q.dataset)) for q in found} == {("riddles", "weaving", "ood-math")}
    assert "riddles" in tasks.test_datasets("paper")


def test_a_family_of_the_mini_world():
    found = run("mini.FAMILIES")["questions"]
    assert len({q.text for q in found}) == 16 and {q.level for q in found} == set(range(1, mini.LEVELS + 1))
    assert all(int(q.gold) == int(q.text.split()[1]) * 2**q.level for q in found)
    assert tasks.group_of("doubling") == "ood-math" and "doubling" in tasks.test_datasets()


def test_a_reward_down_to_the_command_line(tmp_path, capsys):
    found = run("DISTANCES")
    assert found["paid"] == pytest.approx([-(0.4**3)] * 2), "one of two is right: the target is a half"
    assert all(0 <= found["cubed"](c, t) <= 1 for c in (0, 0.3, 1) for t in (0, 0.7, 1))
    real = tasks.load_questions("drill", "train", size=4)
    write_lines(tmp_path / "own.jsonl", [{"question": q.text, "answer": q.gold} for q in real])
    command = ["train", str(tmp_path / "own.jsonl"), "--model", str(save_tiny(tmp_path / "tiny")), "--out", str(tmp_path / "run"),
               "--reward", "Cubed", "--steps", "1", "--questions-per-step", "2", "--rollouts", "2", "--max-new-tokens", "8",
               "--no-instruction"]  # fmt: skip
    assert cli.main(command) == 0
    assert "1 steps, accuracy" in capsys.readouterr().out
    assert "confidence reward" in (tmp_path / "run" / "log.csv").read_text()


def test_an_estimator():
    found = run("SOURCES")
    rows, records = found["rows"], found["records"]
    slm = records[records["system"] == "L1-SLM"]
    assert len(rows) == len(slm) and rows["confidence"].between(0, 1).all()
    order = np.argsort(rows["completion_tokens"].to_numpy(), kind="stable")
    assert np.all(np.diff(rows["confidence"].to_numpy()[order]) <= 0)
    with pytest.raises(ValueError, match=r"unknown source of confidence 'Length'; use one of Verb, .*, Brevity"):
        systems.rows_of(systems.System("L1-SLM-Length", "L1-SLM", "Length"), records, {})


def test_a_system_down_to_the_tables():
    found = run("Platt")
    table = found["table"].set_index("dataset")
    assert {*tasks.test_datasets(), "mean"} == set(table.index)
    assert (table["pass1_low"] <= table["pass1"]).all() and 0 < table.loc["mean", "llm_share"] < 1
    records, profile = found["records"], found["profile"]
    few = records[records["question_id"].str[-5:].astype(int) < 40]
    corea = next(system for system in systems.PAPER if system.name == systems.COREA)
    compared = systems.compare(few, {}, pipeline.prices_of(profile), [corea, found["mine"]])
    assert set(compared.rows) == {systems.COREA, found["mine"].name, systems.COREA_PLUS}
    sources = comparisons.table_sources(compared.rows, scores=compared.scores, resamples=10)
    assert found["mine"].name in set(sources["system"])


# --- the rooms ------------------------------------------------------------------------------------


def test_modules_import_those_above_them_alone():
    rows = re.findall(r"^\| (\d) \| (.*?) \|", TEXT, re.M)
    row_of = {name: int(row) for row, names in rows for name in re.findall(r"`(\w+)`", names)}
    modules = {path.stem: path for path in (ROOT / "corea").glob("*.py") if path.stem != "__init__"}
    assert set(row_of) == set(modules), "the table of CONTRIBUTING.md names every module once"
    down = set()
    for name, path in modules.items():
        tree = ast.parse(path.read_text())
        down |= {(name, other) for other in _imported(tree) if other in row_of and row_of[other] >= row_of[name]}
    assert down == DOWN


def _imported(tree: ast.AST) -> set[str]:
    """Modules of corea that are imported anywhere but for type checkers."""
    found = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "corea":
            found |= {alias.name for alias in node.names} if node.module == "corea" else {node.module.split(".")[1]}
        found |= _imported(node)
    return found
