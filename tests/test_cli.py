"""`corea train` and `corea evaluate` on a user's own file: trained, measured, kept, and refused in one line."""

from __future__ import annotations

import json
import sys

import pytest

from corea import __version__, cli, grpo
from corea.paper.profiles import load_profile
from corea.questions.load import load_questions
from corea.records import read_records
from tests.faulty import FaultyServer

SLM = load_profile("cpu").slm


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """A user's own file of questions."""
    path = tmp_path_factory.mktemp("own") / "own.jsonl"
    lines = [
        {"question": q.text, "answer": q.gold, "answer_type": q.answer_type}
        for q in load_questions("drill", "train", size=24)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def trained(questions):
    """The folder of a run by the command line."""
    out = questions.parent / "run"
    assert cli.main(train(questions, out)) == 0
    return out


def train(questions, out, *more: str) -> list[str]:
    small = "--steps 2 --questions-per-step 4 --rollouts 4 --max-new-tokens 48 --learning-rate 1e-4 --no-instruction"
    return ["train", str(questions), "--model", SLM, "--out", str(out), *small.split(), *more]


def evaluate(questions, model, out, *more: str) -> list[str]:
    return [
        "evaluate",
        str(questions),
        "--model",
        str(model),
        "--out",
        str(out),
        "--max-new-tokens",
        "64",
        "--no-instruction",
        *more,
    ]


def test_a_model_is_trained_and_says_where_it_lies(trained, questions, capsys):
    assert cli.main(train(questions, trained)) == 0, "a finished run is shown again"
    said = capsys.readouterr().out
    assert "2 steps, accuracy" in said and str(trained / "model") in said
    assert grpo.fingerprint(trained / "model") != grpo.fingerprint(SLM)


def test_a_model_is_measured_with_intervals_and_not_asked_again(
    trained, questions, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "mine.parquet"
    command = evaluate(questions, trained / "model", out, "--samples", "2")
    assert cli.main(command) == 0
    rows, said = read_records(out), capsys.readouterr().out
    assert (
        len(rows) == 48
        and rows["mean_probability"].notna().all()
        and set(rows["dataset"]) == {"own"}
    )
    shown = {line.split()[0]: float(line.split()[1]) for line in said.splitlines()[:-1]}
    assert shown["pass1"] == pytest.approx(rows["correct"].mean(), abs=5e-4) and {
        "ece",
        "auroc",
        "parse_rate",
    } <= set(shown)
    assert "24 questions, 2 samples each" in said
    monkeypatch.setattr(cli, "_engine", lambda *_: pytest.fail("asked again"))
    assert cli.main(command) == 0
    assert capsys.readouterr().out == said


def test_a_server_is_measured_over_its_api(questions, tmp_path, capsys):
    with FaultyServer(lambda question, nth: 429 if nth == 1 else None) as server:
        assert (
            cli.main(evaluate(questions, "tiny", tmp_path / "tiny.parquet", "--server", server.url))
            == 0
        )
        assert server.paid.total() == 24
    rows = read_records(tmp_path / "tiny.parquet")
    assert (rows["confidence"] == 0.7).all() and "pass1" in capsys.readouterr().out


def test_a_budget_stops_a_measurement_and_more_of_it_goes_on(questions, tmp_path, capsys):
    command = evaluate(
        questions,
        "tiny",
        tmp_path / "tiny.parquet",
        "--concurrency",
        "1",
        "--price",
        "1000",
        "1000",
    )
    with FaultyServer() as server:
        assert cli.main([*command, "--server", server.url, "--budget", "1"]) == 1
        assert "stopped before the budget of 1 could be passed" in capsys.readouterr().err
        assert 0 < server.paid.total() < 24
        assert cli.main([*command, "--server", server.url, "--budget", "10"]) == 0
        assert server.paid.total() == 24, "something was paid twice"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--rollouts", "1"], "num_generations=1 makes no group"),
        (["--micro-batch", "3"], "micro_batch=3 does not divide the 16 rollouts of a process"),
        (["--rollout-engine", "colocate"], "need gpus of 1 or more"),
        (["--model", "no/such-model"], "cannot load model weights from no/such-model"),
    ],
)
def test_what_cannot_be_trained_is_one_line(more, says, questions, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert cli.main(train(questions, tmp_path / "run", *more)) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("corea train: ") and says in said


def test_wrong_lines_of_a_file_are_named_by_number(tmp_path, capsys):
    path = tmp_path / "own.jsonl"
    path.write_text('{"question": "1+1=?", "answer": 2}\n{"answer": "no question"}\nnot json\n')
    assert cli.main(evaluate(path, SLM, tmp_path / "out.parquet")) == 1
    assert "2 wrong lines (2, 3); line 2: question is missing" in capsys.readouterr().err
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("answers", [0, 1])
def test_questions_without_answers_are_asked_and_not_graded(answers, tmp_path, capsys):
    """With one answer in three, accuracy is that of the one."""
    path, out = tmp_path / "own.jsonl", tmp_path / "own.parquet"
    lines = [{"question": f"{n}+0=?"} | ({"answer": "?"} if n < answers else {}) for n in range(3)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with FaultyServer() as server:
        assert cli.main(evaluate(path, "tiny", out, "--server", server.url)) == 0
    rows, said = read_records(out), capsys.readouterr().out
    assert len(rows) == 3 and rows["correct"].notna().sum() == answers
    assert ("pass1" in said) == (answers > 0)
    assert f"3 questions ({3 - answers} without an answer), 1 samples each" in said


def test_the_version_is_told_and_no_command_is_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0 and capsys.readouterr().out.strip() == f"corea {__version__}"
    assert cli.main([]) == 2
    said = capsys.readouterr().err
    assert all(name in said for name in ("train", "evaluate", "answer", "serve", "COREA_SLM_KEY"))


@pytest.mark.parametrize("command", ["train", "evaluate", "answer", "serve"])
def test_help_shows_an_example_that_is_understood(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    said = capsys.readouterr().out
    assert stopped.value.code == 0 and "example" in said
    example = cli._EXAMPLES[command].split("\n  corea ")[1].replace("\\\n", " ")
    assert cli._parser().parse_args(example.split()).command == command


@pytest.mark.parametrize(
    ("command", "missing", "extra"),
    [
        ("train", "transformers", "train"),
        ("evaluate", "torch", "train"),
        ("serve", "uvicorn", "serve"),
    ],
)
def test_a_missing_extra_is_named(
    command, missing, extra, questions, tmp_path, capsys, monkeypatch
):
    """Each module is the first one of its extra that the command imports."""
    sides = "--slm u --slm-model s --llm u --llm-model l --threshold .5"
    commands = {
        "train": train(questions, tmp_path / "run"),
        "evaluate": evaluate(questions, SLM, tmp_path / "out.parquet"),
        "serve": ["serve", *sides.split()],
    }
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "corea._callbacks", raising=False)
    assert cli.main(commands[command]) == 1
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert said.startswith(f"corea {command}: ") and f'pip install "corea[{extra}]"' in said
