"""Several processes that train one model: who is first, and what all of them know together."""

import os
import re
import sys
from collections import deque
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen

_ROOT = Path(__file__).resolve().parents[2]
_RANK = re.compile(r"^\[rank\d+\]: ?")
# A line by which a process names its error; the launcher's own, ChildFailedError, tells nothing.
_ERROR = re.compile(r"(?!.*ChildFailedError)([\w.]+(Error|Exception|Interrupt): |\S*python\S*: )")


def rank() -> int:
    """This process's number among those that were launched together; 0 if there is one."""
    return int(os.environ.get("RANK", 0))


def launched() -> int:
    """How many processes were launched together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def gathered(rows: list) -> list:
    """The rows of all processes in their order; every process must call this at the same point."""
    if (distributed := _distributed()) is None and launched() > 1:
        raise ValueError(
            f"{launched()} processes were launched together, but torch.distributed is not set up, "
            "so what they hold is not known; build the trainer first, or use `accelerate launch`"
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
    """Run `python -m module arguments` in the processes that `accelerate command` starts."""
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path}
    accelerate = [sys.executable, "-m", "accelerate.commands.accelerate_cli", *command]
    words = [*accelerate, "-m", module, *arguments]
    tail: deque[str] = deque(["no output"], maxlen=500)
    with Popen(words, text=True, env=environment, stdout=PIPE, stderr=STDOUT) as process:
        try:
            for line in process.stdout or ():
                sys.stdout.write(line)
                tail.append(_RANK.sub("", line.rstrip()))
        except BaseException:
            process.terminate()
            raise
    if status := process.returncode:
        reason = ([line for line in tail if _ERROR.match(line)] or tail)[-1]
        what = f"`{module} {' '.join(arguments)}` failed in several processes (status {status})"
        raise RuntimeError(f"{what}: {reason}")
