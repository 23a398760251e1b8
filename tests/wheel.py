"""What `make dist` built: the wheel holds the package, and runs the ten lines in an empty venv."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from corea import __version__

ROOT = Path(__file__).resolve().parent.parent
LIGHT = """
from corea import cli, costs, parser, rewards
from corea.questions import base
from corea.support import files, hardware
print(files.checkout(), parser.parse("x").answer)
"""


def package_files() -> set[str]:
    """The files of the package that git tracks."""
    listed = subprocess.run(
        ["git", "ls-files", "corea"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return set(listed.stdout.split())


def check_contents(dist: Path) -> Path:
    """The one wheel in a folder; it and the source distribution must hold all of the package."""
    (wheel,), (source,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("corea/")}
    assert inside == package_files(), (
        f"the wheel differs from the package in {sorted(inside ^ package_files())}"
    )
    with tarfile.open(source) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    wanted = package_files() | {"pyproject.toml", "README.md", "LICENSE"}
    assert wanted <= names, f"the source distribution lacks {sorted(wanted - names)}"
    return wheel


def check_installed(wheel: Path) -> None:
    """Install it with the core's dependencies only, and run the ten lines on recorded answers."""
    with TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin" / "python")
        pip = [python, "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, str(wheel)], check=True)
        light = subprocess.run(
            [python, "-I", "-c", LIGHT], check=True, capture_output=True, text=True, cwd=folder
        )
        assert light.stdout.strip() == "None None", light.stdout
        subprocess.run([python, "-I", str(ROOT / "tests" / "ten_lines.py")], check=True, cwd=folder)
        torch = subprocess.run(
            [python, "-I", "-c", "import torch"], capture_output=True, cwd=folder
        )
        assert torch.returncode, "the core brings torch"


def main(arguments: Sequence[str]) -> None:
    """Check the folder given."""
    wheel = check_contents(Path(arguments[0]))
    check_installed(wheel)
    print(
        f"{wheel.name} holds the package of version {__version__} and runs the ten lines "
        "in an empty environment"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
