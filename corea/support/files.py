"""Files that are whole or absent, and the names of what a result came from."""

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

STATIC = "COREA_STATIC"  # set if a notebook is executed to be read, not to be used
# What `make paper` rewrites is no change of sources.
_SOURCES = (":/", ":(top,exclude)figures", ":(top,exclude)data")


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Open a file that appears under its name only when it is whole.

    It is written beside `path`, flushed to disk and renamed. On an error what lay at `path` stays;
    what a killed process left beside it goes with the next write. Text is UTF-8 with \\n line ends.
    """
    path, aside = Path(path), ""
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.????????.part"):
            leftover.unlink(missing_ok=True)
        handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with os.fdopen(handle, mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except OSError as error:
        if error.filename not in (None, aside, str(path), str(path.parent)):
            raise  # of another file that the caller opened
        reason = f"{error.strerror or error}; nothing was changed there"
        raise OSError(error.errno, f"cannot write {path}: {reason}") from error
    finally:
        if aside:
            Path(aside).unlink(missing_ok=True)


def checkout() -> Path | None:
    """The checkout that this library is imported from; None if it is installed without one."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").is_file() else None


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:  # in parts: weights may be larger than memory
        return hashlib.file_digest(file, "sha256").hexdigest()


def settings_hash(settings: object) -> str:
    """Twelve hex digits of the SHA-256 of the canonical JSON of plain values, lists and dicts."""
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def git_commit() -> tuple[str, bool]:
    """The commit of this library's checkout, and whether its sources had changes.

    ("unknown", False) outside a checkout: git would speak of whatever repository lies around it.
    """
    if (root := checkout()) is None:
        return "unknown", False
    command = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch"]
    command += ["--untracked-files=no", "--", *_SOURCES]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown", False
    commit, *lines = done.stdout.splitlines()
    return commit.removeprefix("# branch.oid "), any(not line.startswith("#") for line in lines)
