"""Several processes that train one model: who is first, and what all of them know together."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_RANK = re.compile(r"^\[rank\d+\]: ?")
_AN_ERROR = re.compile(r"^(\[rank\d+\]: ?)?([\w.]+(Error|Exception|Interrupt): |\S*python\S*: )")


def rank() -> int:
    """This process's number among those that were launched together; 0 if there is one."""
    return int(os.environ.get("RANK", 0))


def launched() -> int:
    """How many processes were launched together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def gathered(rows: list) -> list:
    """The rows of all processes in their order; every process must call this at the same point.

    Raises:
        ValueError: processes were launched together but cannot speak with each other.
    """
    distributed = _distributed()
    if distributed is None and launched() > 1:
        raise ValueError(
            f"{launched()} processes were launched together, but torch.distributed is not set "
            "up, so what they hold is not known; build the trainer first, or `accelerate launch`"
        )
    if distributed is None:
        return rows
    # accelerate's `gather_object` returns only our rows if another library set up the group.
    shares: list = [None] * distributed.get_world_size()
    distributed.all_gather_object(shares, rows)
    return [row for share in shares for row in share]


def wait() -> None:
    """Return when every process has come here."""
    if distributed := _distributed():
        distributed.barrier()


def _distributed():
    """`torch.distributed` if it joins several processes; torch is not imported for the question."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_available():
        return None
    joined = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
    return torch.distributed if joined else None


def launch(command: list[str], module: str, *arguments: str) -> None:
    """Run `python -m module arguments` in the processes that `accelerate command` starts.

    Raises:
        RuntimeError: one of them fails; their output is this process's.
    """
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    accelerate = [sys.executable, "-m", "accelerate.commands.accelerate_cli", *command]
    tail: list[str] = []
    with subprocess.Popen(
        [*accelerate, "-m", module, *arguments],
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            for line in process.stdout or ():
                sys.stdout.write(line)
                tail = [*tail[-499:], line]
        except BaseException:
            process.terminate()
            raise
    if status := process.returncode:
        what = f"`{module} {' '.join(arguments)}` failed in several processes (status {status})"
        raise RuntimeError(f"{what}: {_reason(tail)}")


def _reason(output: list[str]) -> str:
    """The last error that a process named itself; the launcher's own tells nothing."""
    named = [line for line in output if _AN_ERROR.match(line) and "ChildFailedError" not in line]
    return _RANK.sub("", (named or output or ["no output"])[-1]).strip()
