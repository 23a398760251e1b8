"""Untrusted Python called from outside: it gets arguments and gives values, and sees nothing else
of the machine.

The code lives in a process of its own (`grading.inside`); this side sends a request as a line of
JSON and reads a line of JSON back, so that what is tested, and with what, never enters that
process.  What holds on Linux, and by what:

| threat | held by |
|---|---|
| reads files: solutions, tests, others' work | its own root, a scratch folder of 64 MB |
| reads `/proc`, signals or traces processes | its own process table, no `/proc`, a call filter |
| uses the network | a namespace without interfaces; the filter refuses sockets |
| starts processes, or slips away | the filter refuses fork, exec, new groups and the like |
| fills memory, disk or time | limits of the process; this side's clock, which kills it |
| sends objects that equal anything, or endless replies | JSON of bounded length and nothing else |
| writes replies of its own | nothing: a reply is a value, which it may choose anyway |

Where the kernel refuses new namespaces, and on other systems than Linux, there is
`SandboxUnavailable`; `isolated=False` then goes on without the first two rows (and without the
filter where there is no Linux): such code can read this user's files.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from grading import inside

CHECKOUT = Path(__file__).resolve().parents[3]
_LONGEST_REPLY = 4 << 20


class SandboxUnavailable(RuntimeError):
    """This machine does not let a process shut itself in; the line says what failed and what to
    do."""


class CodeError(Exception):
    """The untrusted code raised, was stopped, or gave something that is no plain value; one
    line."""


class CodeStopped(CodeError):
    """Its process is gone: out of time, killed, or ended by itself."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds of wall clock for a cell, for a call and for all together, and bytes of memory."""

    cell: float = 10.0
    call: float = 5.0
    together: float = 60.0
    memory: int = 2 << 30


class Sandbox:
    """One process with untrusted code in it; a context manager, as it must be closed.

    files: text by name, put into the code's folder.  isolated: see the head of this module.
    """

    def __init__(
        self,
        limits: Limits = Limits(),
        files: Mapping[str, str] | None = None,
        *,
        isolated: bool = True,
    ):
        self._isolated = isolated
        self._limits, self._ends = limits, time.monotonic() + limits.together
        self._folder = tempfile.mkdtemp(prefix="corea-")
        settings = {
            "isolated": isolated,
            "root": self._folder,
            "scratch": f"{self._folder}/scratch",
            "files": dict(files or {}),
            "memory": limits.memory,
            "seconds": int(limits.together) + 1,
            **(_view() if isolated else {}),
        }
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        command = [sys.executable, "-I", inside.__file__, "enter"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={},
            bufsize=0,
            start_new_session=True,
        )
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        self._requests, self._replies = stdin, stdout
        os.set_blocking(
            stdin.fileno(), False
        )  # code that answers and then never reads must not hold this side
        try:
            self._send(settings, time.monotonic() + 30.0)
            self._ask({"run": "", "cell": "cell 0"}, 30.0)
        except CodeStopped as error:
            why = self._why(isolated)
            self.close()
            raise SandboxUnavailable(why) from error

    def run(self, source: str, cell: str) -> None:
        """Execute a cell; CodeError where it raises or is stopped."""
        self._ask({"run": source, "cell": cell}, self._limits.cell)

    def call(self, function: str, *arguments, **named):
        """What a function of the code gives for these arguments; CodeError where it raises or is
        stopped."""
        return self._ask(
            {"call": function, "with": inside.encoded([arguments, named])}, self._limits.call
        )

    def close(self) -> None:
        """Kill the process, whatever it does."""
        self._kill()
        self._process.wait()
        for stream in (self._requests, self._replies, self._errors):
            stream.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _kill(self) -> None:
        if (
            self._isolated
        ):  # the process that was started kills its child, which runs the code, and waits for it
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _why(self, isolated: bool) -> str:
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        way_out = "; see `What the sandbox holds` in notebooks/course/README.md" if isolated else ""
        reason = said[-1] if said else "it did not start"
        return f"this machine cannot shut untrusted code in ({reason}){way_out}"

    def _send(self, request: dict, ends: float) -> None:
        data, descriptor = memoryview(json.dumps(request).encode() + b"\n"), self._requests.fileno()
        try:
            while data:
                if not select.select([], [descriptor], [], max(0.0, ends - time.monotonic()))[1]:
                    self._kill()
                    raise CodeStopped("stopped: it takes no calls any more")
                data = data[os.write(descriptor, data) :]
        except BrokenPipeError as error:
            raise CodeStopped("its process ended") from error

    def _ask(self, request: dict, seconds: float):
        ends = min(self._ends, time.monotonic() + seconds)
        self._send(request, ends)
        line = self._line(ends, seconds)
        try:
            reply = json.loads(line)
            said = reply.get("error")
            value = None if said is not None else inside.decoded(reply["value"])
        except Exception as error:  # the line may be anything that the code wrote there
            raise CodeError("it gave no plain value") from error
        if said is not None:
            raise CodeError(str(said)[:500])
        return value

    def _line(self, ends: float, seconds: float) -> bytes:
        read, descriptor = bytearray(), self._replies.fileno()
        while not read.endswith(b"\n"):
            left = ends - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                self._kill()
                which = (
                    f"{seconds:g} seconds"
                    if ends < self._ends
                    else f"{self._limits.together:g} seconds for the whole notebook"
                )
                raise CodeStopped(f"stopped after {which}: an endless loop?")
            part = os.read(descriptor, 1 << 16)
            if not part or len(read) > _LONGEST_REPLY:
                self._kill()
                raise CodeStopped(
                    "its process ended: it quit, or ran out of memory"
                    if not part
                    else "its reply is too long"
                )
            read += part
        return bytes(read)


def _view() -> dict[str, list | dict]:
    """What of the file system the code may see: Python and its libraries, without this checkout and
    the package."""
    sites = [
        p
        for p in sys.path
        if Path(p).name in ("site-packages", "dist-packages") and Path(p).is_dir()
    ]
    places = {os.path.realpath(p) for p in (sys.prefix, sys.base_prefix, "/usr", *sites)}
    links = {}
    for name in ("/bin", "/lib", "/lib32", "/lib64"):
        if os.path.islink(name):
            links[name] = os.readlink(name)
        elif os.path.isdir(name):
            places.add(name)
    shown = [p for p in sorted(places) if not any(_within(p, other) for other in places - {p})]
    hidden = [f"{os.path.realpath(p)}/corea" for p in sites if os.path.isdir(f"{p}/corea")]
    if any(_within(str(CHECKOUT), place) for place in shown):
        hidden.append(str(CHECKOUT))
    again = [p for p in sorted(places) if _within(p, str(CHECKOUT)) and p not in shown]
    return {"shown": shown, "hidden": hidden, "shown_again": again, "links": links}


def _within(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder)
