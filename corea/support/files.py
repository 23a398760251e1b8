"""Files that are whole or absent, and the names of what a result came from."""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

STATIC = (
    "COREA_STATIC"  # set in the environment where a notebook is executed to be read, not to be used
)


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """A file that appears under its name only when it is whole.

    Written under a temporary name in the same folder, flushed to disk, then renamed; on any error the temporary file is
    removed and what lay at `path` before stays; what a killed process left is removed by the next write to `path`.
    mode: "w" for text (UTF-8, \\n line ends) or "wb".
    Raises OSError, in one line that names the file, where the disk is full or the folder cannot be written.
    """
    path = Path(path)
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
    aside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with os.fdopen(handle, mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except BaseException as error:
        if aside is not None:
            Path(aside).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (
            None,
            aside,
            str(path),
            str(path.parent),
        ):
            reason = error.strerror or str(error)
            raise OSError(
                error.errno, f"cannot write {path}: {reason}; nothing was changed there"
            ) from error
        raise


def _remove_leftovers(path: Path) -> None:
    """Temporary files of writes to this very path that were killed; `mkstemp` puts eight characters into their names."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.????????.part"):
        leftover.unlink(missing_ok=True)


def checkout() -> Path | None:
    """The checkout that this library is imported from; None where it is installed without one."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").is_file() else None


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:  # in parts: weights may be larger than memory
        return hashlib.file_digest(file, "sha256").hexdigest()


def settings_hash(settings: object) -> str:
    """Twelve hex digits of the SHA-256 of the settings' canonical JSON (dataclasses, dicts, lists, plain values)."""
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(
        f"settings hold a {type(value).__name__}; use dataclasses, dicts, lists and plain values"
    )


_SOURCES = (
    ":/",
    ":(top,exclude)figures",
    ":(top,exclude)data",
)  # what `make paper` rewrites is no change of sources


def git_commit() -> tuple[str, bool]:
    """The commit of the checkout this library is imported from, and whether its sources had changes.

    ("unknown", False) outside a checkout.
    """
    root = checkout()
    if root is None:  # git would speak of whatever repository the installed library lies in
        return "unknown", False
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit, bool(
            _git(root, "status", "--porcelain", "--untracked-files=no", "--", *_SOURCES)
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown", False


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=10
    ).stdout.strip()
