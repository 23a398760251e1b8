"""Untrusted Python called from outside: it gets arguments and gives values, and sees nothing else of the machine.

The code lives in a process of its own (`corea.inside`); this side sends a request as a line of JSON and reads a line of
JSON back, so that what is tested, and with what, never enters that process.  What holds on Linux, and by what:

| threat | held by |
|---|---|
| reads files: solutions, hidden tests, records, other people's work | a root of its own: Python read only, a scratch folder of 64 MB |
| reads `/proc`, signals or traces other processes | its own process table, no `/proc`, a system call filter |
| uses the network | a network namespace without interfaces; the filter refuses sockets |
| starts processes | the filter refuses fork, exec and the like |
| fills memory, disk or time | limits of the process; this side's clock, which kills it |
| sends objects, or endless replies | JSON of bounded length and nothing else |

Where the kernel refuses new namespaces there is `SandboxUnavailable`; `isolated=False` then goes on without the first two
rows: code that looks for them can read this user's files.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from corea import inside

_LONGEST_REPLY = 16 << 20


class SandboxUnavailable(RuntimeError):
    """This machine does not let a process shut itself in; the line says what failed and what to do."""


class CodeError(Exception):
    """The untrusted code raised, was stopped, or gave something that is no plain value; one line."""


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

    def __init__(self, limits: Limits = Limits(), files: Mapping[str, str] | None = None, *, isolated: bool = True):  # noqa: B008
        self._limits, self._ends = limits, time.monotonic() + limits.together
        self._folder = tempfile.mkdtemp(prefix="corea-")
        settings = {
            "isolated": isolated, "root": self._folder, "scratch": f"{self._folder}/scratch", "files": dict(files or {}),
            "memory": limits.memory, "seconds": int(limits.together) + 1, **_view(),
        }  # fmt: skip
        self._errors = tempfile.TemporaryFile()
        command = [sys.executable, "-I", inside.__file__, "enter"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env={}, bufsize=0, start_new_session=True
        )
        try:
            self._send(settings)
            self._ask({"run": "", "cell": "cell 0"}, 30.0)
        except CodeStopped as error:
            self.close()
            raise SandboxUnavailable(self._why(isolated)) from error

    def run(self, source: str, cell: str) -> None:
        """Execute a cell; CodeError where it raises or is stopped."""
        self._ask({"run": source, "cell": cell}, self._limits.cell)

    def call(self, function: str, *arguments, **named):
        """What a function of the code gives for these arguments; CodeError where it raises or is stopped."""
        return self._ask({"call": function, "with": inside.encoded([arguments, named])}, self._limits.call)

    def close(self) -> None:
        """Kill the process, whatever it does."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            stream.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _why(self, isolated: bool) -> str:
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        way_out = "; allow user namespaces, or grade with --not-isolated code that you trust" if isolated else ""
        return f"this machine cannot shut untrusted code in ({said[-1] if said else 'it did not start'}){way_out}"

    def _send(self, request: dict) -> None:
        data = memoryview(json.dumps(request).encode() + b"\n")
        try:
            while data:  # unbuffered: a write may take a part
                data = data[self._process.stdin.write(data) :]
        except BrokenPipeError as error:
            raise CodeStopped("its process ended") from error

    def _ask(self, request: dict, seconds: float):
        ends = min(self._ends, time.monotonic() + seconds)
        self._send(request)
        try:
            reply = json.loads(self._line(ends, seconds))
            if "error" in reply:
                raise CodeError(str(reply["error"])[:500])
            return inside.decoded(reply["value"])
        except (ValueError, KeyError, TypeError, RecursionError, MemoryError) as error:
            raise CodeError("it gave no plain value") from error

    def _line(self, ends: float, seconds: float) -> bytes:
        read, descriptor = bytearray(), self._process.stdout.fileno()
        while not read.endswith(b"\n"):
            left = ends - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                self._process.kill()
                which = f"{seconds:g} seconds" if ends < self._ends else f"{self._limits.together:g} seconds for the whole notebook"
                raise CodeStopped(f"stopped after {which}: an endless loop?")
            part = os.read(descriptor, 1 << 16)
            if not part or len(read) > _LONGEST_REPLY:
                self._process.kill()
                raise CodeStopped("its process ended: it quit, or ran out of memory" if not part else "its reply is too long")
            read += part
        return bytes(read)


def _view() -> dict[str, list | dict]:
    """What of the file system the code may see: Python and its libraries, without this package."""
    places = {sys.prefix, sys.base_prefix, "/usr"}
    places |= {p for p in sys.path if Path(p).name in ("site-packages", "dist-packages") and Path(p).is_dir()}
    shown: list[str] = []
    for place in sorted(os.path.realpath(p) for p in places):
        if not any(place == s or place.startswith(s + "/") for s in shown):
            shown.append(place)
    links = {}
    for name in ("/bin", "/lib", "/lib32", "/lib64"):
        if os.path.islink(name):
            links[name] = os.readlink(name)
        elif os.path.isdir(name):
            shown.append(name)
    hidden = [f"{p}/corea" for p in sys.path if os.path.isdir(f"{p}/corea") and any(p.startswith(s) for s in _sites(places))]
    return {"shown": shown, "hidden": hidden, "links": links}


def _sites(places: Sequence[str]) -> list[str]:
    return [p for p in places if Path(p).name in ("site-packages", "dist-packages")]
