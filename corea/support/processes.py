"""Several processes that train one model: who is first, and what all of them know together."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_RANK = re.compile(r"^\[rank\d+\]: ?")
_AN_ERROR = re.compile(r"^(\[rank\d+\]: ?)?([\w.]+(Error|Exception|Interrupt): |\S*python\S*: )")


def rank() -> int:
    """This process's number among those that were launched together; 0 where it is alone."""
    return int(os.environ.get("RANK", 0))


def launched() -> int:
    """How many processes were launched together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def gathered(rows: list) -> list:
    """The rows of all processes, those of the first process first; every process must call this at the same point.

    Raises ValueError where processes were launched together but cannot speak with each other.
    """
    distributed = _distributed()
    if distributed is None:
        if launched() > 1:
            raise ValueError(
                f"{launched()} processes were launched together, but torch.distributed is not set up, so what the others "
                "hold cannot be known; build the trainer first, or launch with `accelerate launch`"
            )
        return rows
    found: list = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, rows)
    return [row for part in found for row in part]


def wait() -> None:
    """Return when every process has come here."""
    distributed = _distributed()
    if distributed is not None:
        distributed.barrier()


def _distributed():
    """`torch.distributed` where it joins several processes; torch is not imported for the question."""
    torch = sys.modules.get("torch")
    if (
        torch is None
        or not torch.distributed.is_available()
        or not torch.distributed.is_initialized()
    ):
        return None
    return torch.distributed if torch.distributed.get_world_size() > 1 else None


def launch(command: list[str], module: str, *arguments: str) -> None:
    """Run `python -m module arguments` in the processes that `accelerate` starts by `command`, and wait for them.

    Raises RuntimeError where one of them fails; their output is this process's.
    """
    import subprocess

    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    }
    whole = [
        sys.executable,
        "-m",
        "accelerate.commands.accelerate_cli",
        *command,
        "-m",
        module,
        *arguments,
    ]
    process = subprocess.Popen(
        whole, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    tail: list[str] = []
    try:
        for line in process.stdout or ():
            sys.stdout.write(line)
            tail = [*tail[-499:], line]
        status = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if status:
        raise RuntimeError(
            f"`{module} {' '.join(arguments)}` failed in several processes (status {status}): {_reason(tail)}"
        )


def _reason(output: list[str]) -> str:
    """The last error that a process named itself, before those of the launcher, which tell nothing."""
    named = [line for line in output if _AN_ERROR.match(line) and "ChildFailedError" not in line]
    return _RANK.sub("", (named or output or ["no output"])[-1]).strip()
