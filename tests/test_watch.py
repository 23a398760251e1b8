"""The view of what `make` runs: what it shows of stages, and that errors and exit statuses stay."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from pathlib import Path

import pytest

from corea.paper import execute, watch
from corea.paper.profiles import load_profile
from corea.paper.watch import Stage
from corea.support import progress
from tests.test_notebooks import save

SMOKE = load_profile("smoke")


def stages(folder: Path) -> list[Stage]:
    """One done, two running, five to come."""
    names = ["train A", "train B", "ablate C", *(f"generate {n}" for n in "ABCDE")]
    made = [Stage(name, folder / f"{name}.ipynb", {name: 100.0}) for name in names]
    made[0].state = "done"
    made[1].state = made[2].state = "running"
    made[1].bar = bar("train B", 50, 200, seconds=100)
    made[2].parts = {"train C": 50.0, "generate C": 150.0}
    made[2].bar = bar("generate C", 900, 1200, seconds=90, note="accuracy=0.5")
    return made


def bar(label: str, done: int, total: int, *, first: int = 0, seconds: float, note: str = ""):
    """What `progress.bar` writes."""
    names = ("label", "done", "total", "first", "seconds", "note")
    return dict(zip(names, (label, done, total, first, seconds, note), strict=True))


def test_the_view_of_a_terminal(tmp_path):
    assert watch.lines(stages(tmp_path), 125, 3900, 80) == [
        "1 of 8 stages done, 2 min gone, about 65 min left",
        "  train B                    step 50 of 200, 5 min left",
        "  ablate C                   answer 900 of 1,200, 30 s left, accuracy=0.5",
        "  then generate A, generate B, generate C and 2 more",
    ]
    narrow = watch.lines(stages(tmp_path), 125, None, 30)
    assert narrow[0] == "1 of 8 stages done, 2 min gon" and max(map(len, narrow)) == 29


def test_the_line_of_a_log(tmp_path):
    assert watch.line(stages(tmp_path), 60, None) == (
        "1 of 8 stages done, 60 s gone; train B step 50 of 200, 5 min left; "
        "ablate C answer 900 of 1,200, 30 s left, accuracy=0.5"
    )


def test_time_left_by_hand(tmp_path):
    """Training takes 4 times its plan, generating .8; two stages run at once."""
    made, scales = stages(tmp_path), {}
    assert watch.time_left(made, scales) is None
    watch.measure(made, scales)
    assert scales == pytest.approx({"train": 4.0, "generate": 0.8})
    to_come = 5 * 100 * 0.8
    assert watch.time_left(made, scales) == pytest.approx((75 * 4 + 37.5 * 0.8 + to_come) / 2)
    for stage in made:
        stage.state = "done"
    assert watch.time_left(made, scales) == 0


def test_a_stage_without_a_bar_tells_its_age_which_scales_the_other_drawings(tmp_path):
    made = [Stage(f"draw {n}", tmp_path / f"{n}.ipynb", {f"draw {n}": 30.0}) for n in "ab"]
    watch.progress_file(made[0].target).touch()
    os.utime(watch.progress_file(made[0].target), (time.time() - 60,) * 2)
    scales = {}
    for stage in made:
        stage.look(time.time() - 100)
    watch.measure(made, scales)
    assert scales == {"draw": pytest.approx(2, abs=0.2)}
    assert watch.time_left(made, scales) == pytest.approx(2 * 60, abs=10)
    assert watch.line(made, 60, None).endswith("gone; draw a 60 s")


def test_what_a_resumed_run_had_done_before_does_not_count_as_fast():
    stage = Stage("train A", Path("a.ipynb"), {"train A": 100.0})
    stage.bar = bar("train A", 160, 200, first=150, seconds=20)
    assert stage.pace() == 2 and stage.left() == pytest.approx({"train A": 20.0})
    stage.bar = bar("train A", 150, 200, first=150, seconds=0)
    assert stage.pace() is None and "left" not in watch.line([stage], 1, None)


def test_files_of_an_earlier_call_say_nothing(tmp_path):
    stage = Stage("train A", tmp_path / "04_train-A.ipynb", {"train A": 1.0})
    told = watch.progress_file(stage.target)
    told.write_text(json.dumps(bar("train A", 1, 2, seconds=1)))
    stage.look(time.time() + 10)
    assert stage.state == "waiting"
    stage.look(time.time() - 10)
    assert stage.state == "running" and stage.bar["done"] == 1
    told.write_text("")
    stage.target.touch()
    stage.look(time.time() - 10)
    assert stage.state == "done" and stage.left() == {}


def test_a_bar_tells_the_file_that_the_environment_names(tmp_path, monkeypatch):
    monkeypatch.setenv(progress.FILE, str(tmp_path / "told"))
    shown = progress.bar(200, "train A", done=150)
    told = json.loads((tmp_path / "told").read_text())
    assert (told["label"], told["done"], told["first"], told["total"]) == ("train A", 150, 150, 200)
    shown.update(50)
    shown.set_postfix(accuracy=0.5)
    shown.close()
    told = json.loads((tmp_path / "told").read_text())
    assert (told["done"], told["note"]) == (200, "accuracy=0.5")
    kept = progress.bar(10, "generate A")
    progress.skip(kept, 4)
    kept.close()
    told = json.loads((tmp_path / "told").read_text())
    assert (told["label"], told["done"], told["first"]) == ("generate A", 4, 4)
    hidden = progress.bar(2, "hidden", shown=False)
    progress.skip(hidden, 1)
    hidden.close()
    assert json.loads((tmp_path / "told").read_text())["label"] == "generate A"


def test_the_stages_are_those_that_make_would_run(tmp_path, monkeypatch):
    monkeypatch.setenv("COREA_ROOT", str(tmp_path))
    found = watch.planned(load_profile("smoke"), ["make", "PROFILE=smoke", "drawn"])
    names = [stage.name for stage in found]
    assert {"train L1-SLM", "generate LLM", "ablate anchor", "draw claims"} <= set(names)
    assert len(names) == len(set(names)) == 3 + 5 + 3 + 5
    parts = {stage.name: set(stage.parts) for stage in found}
    assert parts["train L1-SLM"] == {"train L1-SLM"} and parts["draw claims"] == {"draw claims"}
    assert parts["ablate anchor"] == {"train anchor", "generate anchor"}
    done = tmp_path / "data/smoke/notebooks/05_generate-LLM.ipynb"
    assert done in [stage.target for stage in found]


def view_of(code: str, tmp_path, **options) -> tuple[int, str]:
    """Exit status and screen of a command of Python under the view."""
    screen = io.StringIO()
    profile = SMOKE.replace(root=str(tmp_path))
    view = watch.View([Stage("train A", tmp_path / "04_train-A.ipynb", {"train A": 1.0})], screen)
    for name, value in options.items():
        setattr(view, name, value)
    return watch.run(profile, [sys.executable, "-c", code], view), screen.getvalue()


def test_errors_and_exit_status_are_the_commands_and_all_else_is_in_a_log(tmp_path):
    code = "import sys; print('chatter'); print('cell 3: it broke', file=sys.stderr); sys.exit(3)"
    status, screen = view_of(code, tmp_path)
    assert status == 3 and "cell 3: it broke\n" in screen and "chatter" not in screen
    log = (SMOKE.replace(root=str(tmp_path)).data / "make.log").read_text()
    assert "chatter" in log and "it broke" in log


def test_a_log_gets_a_line_a_minute_and_a_terminal_draws_over_its_lines(tmp_path):
    code = "import time; time.sleep(2.5)"
    assert view_of(code, tmp_path)[1].count("stages done") == 1
    status, screen = view_of(code, tmp_path, is_live=True)
    assert status == 0 and screen.count("\x1b[2F\x1b[J") == screen.count("stages done") - 1 > 0


def test_make_n_says_what_would_run(tmp_path):
    done = os.popen(f"COREA_ROOT={tmp_path} make -n paper PROFILE=smoke").read()
    assert done.count("-m corea.paper.execute notebooks/04_train.ipynb") == 3
    assert not (tmp_path / "data").exists()


def test_a_notebook_tells_its_progress_and_what_it_said_stands_in_its_log(tmp_path, capfd):
    told = watch.progress_file(tmp_path / "out.ipynb")
    source = save(
        tmp_path,
        ("seed = 1", ["parameters"]),
        (f"import os, sys; assert os.environ['{progress.FILE}'] == {str(told)!r}", []),
        (f"assert os.path.exists({str(told)!r}); print('chatter', file=sys.stderr)", []),
        ("1 / seed", []),
    )
    assert execute.main([str(source), str(tmp_path / "out.ipynb")]) == 0
    assert "chatter" in (tmp_path / "out.log").read_text()
    assert capfd.readouterr().err == "" and progress.FILE not in os.environ
    assert execute.main([str(source), str(tmp_path / "out.ipynb"), "-p", "seed", "0"]) == 1
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "cell 5: ZeroDivisionError: division by zero (all" in said
    assert str(tmp_path / "out.log") in said
    assert "Traceback" in (tmp_path / "out.log").read_text() and not told.exists()
