"""One live view of what `make` runs: stages, steps, time left.

    python -m corea.paper.watch PROFILE make ...

In a terminal a few lines, drawn over each second; elsewhere one plain line a minute.  Errors stand
above it as they come, everything else that is said is in `make.log` of the profile's folder, and
what a notebook says in a log beside it.  Stages tell how far they are by files
(`corea.support.progress`), so the view may be stopped and started with the work.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from corea.paper import plan
from corea.paper.profiles import Profile, load_profile

_NOTEBOOK = re.compile(r"corea\.paper\.execute \S+\.ipynb (\S+\.ipynb)")
_UNITS = {"train": "step", "generate": "answer"}
_DRAWING = 30.0  # planned seconds of a notebook that runs no model


@dataclass(slots=True)
class Stage:
    """A notebook that is executed."""

    name: str
    target: Path
    parts: dict[str, float]  # planned seconds by what its bars are called, in order
    state: str = "waiting"  # or "running", "done"
    bar: dict = field(default_factory=dict)  # as `progress.bar` writes it; empty before the first
    seconds: float = 0.0  # that it ran without a bar

    def look(self, since: float) -> None:
        """Read how far it is; files from before `since`, of the epoch, are another call's."""
        told = progress_file(self.target)
        if _changed(self.target) >= since:
            self.state = "done"
        elif _changed(told) >= since:
            self.state = "running"
            with suppress(FileNotFoundError):  # it ended just now
                self.bar = json.loads(told.read_text() or "{}")
            self.seconds = self.seconds if self.bar else time.time() - _changed(told)

    def left(self) -> dict[str, float]:
        """Planned seconds of what is still to do, by part."""
        if self.state == "done":
            return {}
        label, parts = self.bar.get("label"), dict(self.parts)
        for name in self.parts if label in self.parts else ():
            if name == label:
                parts[name] *= 1 - self.bar["done"] / max(1, self.bar["total"])
                break
            del parts[name]
        return parts

    def pace(self) -> float | None:
        """Seconds that one unit of its bar takes; None before there is one."""
        units = self.bar.get("done", 0) - self.bar.get("first", 0)
        return self.bar["seconds"] / units if units > 0 else None


def progress_file(target: Path) -> Path:
    """Where a notebook that is being executed tells how far it is."""
    return target.with_name(f".{target.stem}.progress")


def _changed(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0


def planned(profile: Profile, command: Sequence[str]) -> list[Stage]:
    """The stages that a command, of `make` or of a notebook, will run, in its order."""
    said, stages = " ".join(command), []
    if not _NOTEBOOK.search(said):
        said = subprocess.run([*command, "-n"], capture_output=True, text=True).stdout
    for target in map(Path, dict.fromkeys(_NOTEBOOK.findall(said))):
        verb, _, run = target.stem.partition("_")[2].partition("-")
        name = f"{verb} {run}" if run else f"draw {verb}"
        stages.append(Stage(name, target, _parts(profile, verb, run) or {name: _DRAWING}))
    return stages


def _parts(profile: Profile, verb: str, run: str) -> dict[str, float]:
    """Planned seconds of training and generating; empty for what is no run of the profile."""
    try:
        work = plan.stages(profile, plan.assumptions_for(profile), [run])["seconds"]
    except ValueError:
        return {}
    return {name: seconds for name, seconds in work.items() if verb in ("ablate", name.split()[0])}


def time_left(stages: Sequence[Stage], scales: dict[str, float]) -> float | None:
    """Seconds to go if as many stages run at once as now.

    `scales` holds measured over planned seconds by kind of work ("train", "generate"); what has
    none is taken to be scaled like the others. None as long as nothing was measured.
    """
    if not scales:
        return None
    usual = sum(scales.values()) / len(scales)
    left = sum(
        seconds * scales.get(name.split()[0], usual)
        for stage in stages
        for name, seconds in stage.left().items()
    )
    return left / max(1, sum(stage.state == "running" for stage in stages))


def measure(stages: Sequence[Stage], scales: dict[str, float]) -> None:
    """Bring `scales` up to date from running stages: their bars, or how long they draw."""
    for stage in stages:
        if stage.name.startswith("draw") and stage.seconds:
            scales["draw"] = max(scales.get("draw", 0.0), stage.seconds / _DRAWING)
        pace, label = stage.pace(), str(stage.bar.get("label"))
        if stage.state == "running" and pace and stage.parts.get(label):
            scales[label.split()[0]] = pace * stage.bar["total"] / stage.parts[label]


def head(stages: Sequence[Stage], gone: float, left: float | None) -> str:
    """What is done, how long that took in seconds, and how long the rest will take."""
    done = sum(stage.state == "done" for stage in stages)
    text = f"{done} of {len(stages)} stages done, {_clock(gone)} gone"
    return text if left is None else f"{text}, about {_clock(left)} left"


def lines(stages: Sequence[Stage], gone: float, left: float | None, width: int) -> list[str]:
    """The view in a terminal of that many columns."""
    rows = [head(stages, gone, left)]
    rows += [f"  {stage.name:<26} {_step(stage)}" for stage in stages if stage.state == "running"]
    if waiting := [stage.name for stage in stages if stage.state == "waiting"]:
        more = f" and {len(waiting) - 3} more" if len(waiting) > 3 else ""
        rows.append(f"  then {', '.join(waiting[:3])}{more}")
    return [row[: width - 1] for row in rows]


def line(stages: Sequence[Stage], gone: float, left: float | None) -> str:
    """The view as one line of a log."""
    running = (f"{s.name} {_step(s)}".rstrip() for s in stages if s.state == "running")
    return "; ".join([head(stages, gone, left), *running])


def _step(stage: Stage) -> str:
    if not (bar := stage.bar):
        return _clock(stage.seconds)
    unit = _UNITS.get(bar["label"].split()[0], bar["label"])
    text, pace = f"{unit} {bar['done']:,} of {bar['total']:,}", stage.pace()
    if pace:
        text += f", {_clock(pace * (bar['total'] - bar['done']))} left"
    return f"{text}, {bar['note']}" if bar["note"] else text


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"


class View:
    """Shows the stages of one command until it ends."""

    def __init__(self, stages: list[Stage], screen=None):
        self.stages, self.screen = stages, screen or sys.stderr
        self.began, self.scales, self.drawn, self.next = time.time(), dict[str, float](), 0, 0.0
        self.is_live = self.screen.isatty()

    def show(self, errors: str = "") -> None:
        """Read all stages; draw the view anew, or write a line if a minute has passed."""
        for stage in self.stages:
            stage.look(self.began)
        measure(self.stages, self.scales)
        now = (time.time() - self.began, time_left(self.stages, self.scales))
        text = errors
        if self.is_live:
            rows = lines(self.stages, *now, shutil.get_terminal_size().columns)
            back = f"\x1b[{self.drawn}F\x1b[J" if self.drawn else ""
            text, self.drawn = back + errors + "".join(f"{row}\n" for row in rows), len(rows)
        elif now[0] >= self.next:
            text, self.next = f"{errors}{line(self.stages, *now)}\n", self.next + 60
        self.screen.write(text)
        self.screen.flush()


def run(profile: Profile, command: Sequence[str], view: View) -> int:
    """Run the command under the view; its exit status."""
    profile.data.mkdir(parents=True, exist_ok=True)
    with open(profile.data / "make.log", "w") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.PIPE)
        pipe = cast("IO[bytes]", child.stderr)
        os.set_blocking(pipe.fileno(), False)
        while True:
            try:
                child.wait(timeout=1)
            except subprocess.TimeoutExpired:
                pass
            except KeyboardInterrupt:  # the terminal told the command too, which ends by itself
                continue
            errors = (pipe.read() or b"").decode(errors="replace")
            log.write(errors)
            log.flush()
            view.show(errors)
            if child.returncode is not None:
                return child.returncode


def main(arguments: Sequence[str]) -> int:
    """`python -m corea.paper.watch PROFILE COMMAND...`; the command's exit status."""
    name, *command = arguments
    if "n" in os.environ.get("MAKEFLAGS", "").split(" ")[0]:  # `make -n`: only say what would run
        os.execvp(command[0], command)
    profile = load_profile(name)
    return run(profile, command, View(planned(profile, command)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
