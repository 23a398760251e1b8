"""Importing the library loads nothing heavy: that is counted here in modules, since a time would depend on the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(path.stem for path in (ROOT / "corea").glob("*.py") if path.stem not in ("__init__", "callbacks"))
HEAVY = (
    "torch", "transformers", "trl", "datasets", "matplotlib", "seaborn", "scipy", "sklearn", "openai", "vllm", "math_verify", "IPython",
    "papermill",
)  # fmt: skip

IMPORTS = """
import importlib, sys
for name in sys.argv[2:]:
    importlib.import_module(f"corea.{name}")
    if loaded := [heavy for heavy in sys.argv[1].split(",") if heavy in sys.modules]:
        sys.exit(f"corea.{name} loads {', '.join(loaded)}")
"""


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_no_module_loads_anything_heavy():
    """All but the callbacks of the trainer, which is imported with it."""
    assert {"rewards", "parser", "records", "metrics", "cascade", "report", "profiles", "pipeline", "cli"} <= set(MODULES)
    done = run("-c", IMPORTS, ",".join(HEAVY), *MODULES)
    assert done.returncode == 0, done.stderr


def test_the_package_itself_loads_no_module_of_its_own():
    done = run("-c", "import sys, corea; sys.exit(','.join(m for m in sys.modules if m.startswith('corea.')) or None)")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("code", "loads"),
    [
        ("from corea import metrics; metrics.aurc([.1, .9], [0, 1]) < 1 or sys.exit('no area')", "scipy"),
        ("from corea import report; report.figure_grid(2, 1, 1)", "matplotlib"),
    ],
)
def test_what_is_heavy_is_there_when_it_is_used(code, loads):
    done = run("-c", f"import sys; {code}; '{loads}' in sys.modules or sys.exit('not loaded')")
    assert done.returncode == 0, done.stderr
