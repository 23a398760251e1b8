"""The code in CONTRIBUTING.md runs as it stands."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest

from corea import cli, rewards
from corea.analysis import systems, tables
from corea.paper import runs
from corea.questions import base, generated, hub, load
from tests.tiny import save_tiny

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.S)
TABLES = (
    hub.SETS, base.DATASETS, generated.FAMILIES, rewards.DISTANCES, rewards.REWARDS, systems.SOURCES,
    *base.SUITES.values(),
)  # fmt: skip


@pytest.fixture(autouse=True)
def tables_put_back():
    """What a block adds to the library's tables, which others hold too, is gone after the test."""
    before = [(table, dict(table)) for table in TABLES]
    yield
    for table, entries in before:
        table.clear()
        table.update(entries)


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
    for text in ("load_jsonl", "HubSet", "generated.FAMILIES", "DISTANCES", "SOURCES", "Platt"):
        assert sum(text in block for block in BLOCKS) == 1, text


# --- how to add -----------------------------------------------------------------------------------


def test_a_question_set_of_ones_own(tmp_path, monkeypatch):
    real = load.load_questions("shopping", "test", size=8)
    write_lines(
        tmp_path / "questions.jsonl", [{"question": q.text, "answer": q.gold} for q in real]
    )
    monkeypatch.chdir(tmp_path)
    found = run("load_jsonl")["questions"]
    assert [(q.text, q.gold, q.dataset) for q in found] == [
        (q.text, q.gold, "questions") for q in real
    ]


def test_a_set_of_the_hub(tmp_path, monkeypatch):
    real = load.load_questions("weave", "test", size=24)
    write_lines(
        tmp_path / "riddles" / "all.jsonl",
        [{"problem": q.text, "solution": q.gold, "topic": "weaving"} for q in real],
    )
    monkeypatch.setenv("COREA_HUB", str(tmp_path))
    found = run("HubSet")["questions"]
    assert len(found) == 8 and {q.text for q in found} <= {q.text for q in real}
    assert {(q.dataset, q.family, base.group_of(q.dataset)) for q in found} == {
        ("riddles", "weaving", "ood-math")
    }
    assert "riddles" in base.test_datasets("paper")


def test_a_family_of_the_mini_world():
    found = run("generated.FAMILIES")["questions"]
    assert len({q.text for q in found}) == 16 and {q.level for q in found} == set(
        range(1, generated.LEVELS + 1)
    )
    assert all(int(q.gold) == int(q.text.split()[1]) * 2**q.level for q in found)
    assert base.group_of("doubling") == "ood-math" and "doubling" in base.test_datasets()


def test_a_reward_down_to_the_command_line(tmp_path, capsys):
    found = run("DISTANCES")
    assert found["paid"] == pytest.approx([-(0.4**3)] * 2), (
        "one of two is right: the target is a half"
    )
    assert all(0 <= found["cubed"](c, t) <= 1 for c in (0, 0.3, 1) for t in (0, 0.7, 1))
    real = load.load_questions("drill", "train", size=4)
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
    with pytest.raises(
        ValueError, match=r"unknown source of confidence 'Length'; use one of Verb, .*, Brevity"
    ):
        systems.rows_of(systems.System("L1-SLM-Length", "L1-SLM", "Length"), records)


def test_a_system_down_to_the_tables():
    found = run("Platt")
    table = found["table"].set_index("dataset")
    assert {*base.test_datasets(), "mean"} == set(table.index)
    assert (table["pass1_low"] <= table["pass1"]).all() and 0 < table.loc["mean", "llm_share"] < 1
    records, profile = found["records"], found["profile"]
    few = records[records["question_id"].str[-5:].astype(int) < 40]
    corea = next(system for system in systems.PAPER if system.name == systems.COREA)
    compared = systems.compare(few, runs.prices_of(profile), [corea, found["mine"]])
    assert set(compared.rows) == {systems.COREA, found["mine"].name, systems.COREA_PLUS}
    sources = tables.table_sources(compared, resamples=10)
    assert found["mine"].name in set(sources["system"])


# --- the map ----------------------------------------------------------------------------------------


def test_the_map_says_of_each_folder_what_its_head_says():
    rows = dict(re.findall(r"^\| \[`corea/(\w+)/`\]\(corea/\w+\) \| (.*) \|$", TEXT, re.M))
    heads = {
        path.parent.name: " ".join(ast.get_docstring(ast.parse(path.read_text())).split())
        for path in (ROOT / "corea").glob("*/__init__.py")
    }
    assert rows == heads


def test_every_place_that_the_map_names_is_there():
    places = re.findall(r"`(\w+)`(?: and `(\w+)`)? in `(corea/[\w/]+\.py)`", TEXT)
    assert len(places) >= 6
    for *names, path in places:
        defined = (ROOT / path).read_text()
        assert all(re.search(rf"^{name}\b", defined, re.M) for name in names if name), path
    for path in re.findall(r"`(corea/[\w/]+\.\w+)`", TEXT):
        assert (ROOT / path).is_file(), path
