"""How far a long piece of work is: a bar, or a file for who watches from another process."""

import json
import os

from corea.support.files import atomic_write

FILE = "COREA_PROGRESS"  # the file that work started by `make` tells its progress to


def bar(total: int, label: str, *, done: int = 0, shown: bool = True):
    """A `tqdm` bar to update; where the environment names a file, it is written in its place.

    The file holds one JSON object: label, done, total, what was done at the start, the seconds
    since, and the last `set_postfix`.
    """
    from tqdm import auto, std

    class Told(std.tqdm):
        def display(self, *_, **__):
            state = {"label": label, "done": self.n, "total": self.total, "first": self.initial}
            state |= {"seconds": self.format_dict["elapsed"], "note": self.postfix or ""}
            with atomic_write(os.environ[FILE]) as file:
                json.dump(state, file)

    kind, every = (Told, 1) if os.environ.get(FILE) else (auto.tqdm, 5)
    options = {"desc": label, "initial": done, "mininterval": every, "disable": not shown}
    return kind(total=total, **options)


def skip(shown, count: int) -> None:
    """Count on a bar what was there before, which says nothing of the pace."""
    if not shown.disable:
        shown.initial += count
    shown.update(count)
