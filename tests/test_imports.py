"""Importing loads nothing heavy, counted in modules (a time depends on the machine); directions."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = {
    ".".join(path.relative_to(ROOT / "corea").with_suffix("").parts): path
    for path in sorted((ROOT / "corea").rglob("*.py")) if path.stem != "__init__"
}  # fmt: skip
# A folder, or a module at the top, may import from those of an earlier row only.
ROWS = (
    "support parser costs metrics _algebra", "grader", "questions", "records",
    "rewards prompts cascade", "engines _training_log policies", "_callbacks",
    "grpo evaluation serving", "mini analysis", "paper", "cli",
)  # fmt: skip

HEAVY = (
    "torch", "transformers", "trl", "datasets", "matplotlib", "seaborn", "scipy", "sklearn",
    "openai", "vllm", "math_verify", "IPython", "papermill",
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
    assert {
        "rewards",
        "parser",
        "records",
        "metrics",
        "cascade",
        "analysis.figures",
        "paper.profiles",
        "paper.runs",
        "cli",
    } <= set(MODULES)
    done = run("-c", IMPORTS, ",".join(HEAVY), *set(MODULES) - {"_callbacks"})
    assert done.returncode == 0, done.stderr


def imported(path: Path) -> set[str]:
    """Dotted names of modules of corea that a file imports anywhere but for type checkers."""
    found, trees = set(), [ast.parse(path.read_text())]
    while trees:
        node = trees.pop()
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "corea":
            inside = node.module.split(".", 1)[1] + "." if "." in node.module else ""
            named = {inside + alias.name for alias in node.names} & set(MODULES)
            found |= named or {inside.removesuffix(".")} - {""}
        trees += [
            n
            for n in ast.iter_child_nodes(node)
            if "TYPE_CHECKING" not in ast.unparse(getattr(n, "test", n))[:13]
        ]
    return found


def test_folders_import_in_one_direction():
    row_of = {name: number for number, row in enumerate(ROWS) for name in row.split()}
    assert {name.split(".")[0] for name in MODULES} <= set(row_of)
    pairs = {(name, other) for name, path in MODULES.items() for other in imported(path)}
    ends = {(name.split(".")[0], other.split(".")[0]) for name, other in pairs}
    up = {(a, b) for a, b in ends if a != b and row_of[a] <= row_of[b]}
    assert not up


def test_no_module_imports_itself_by_way_of_others():
    left = {name: imported(path) & set(MODULES) for name, path in MODULES.items()}
    while free := {name for name, needs in left.items() if not needs & set(left)}:
        left = {name: needs for name, needs in left.items() if name not in free}
    assert not left, f"circles among {sorted(left)}"


def test_the_package_itself_loads_no_module_of_its_own():
    done = run(
        "-c",
        "import sys, corea; "
        "sys.exit(','.join(m for m in sys.modules if m.startswith('corea.')) or None)",
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("code", "loads"),
    [
        (
            "from corea import metrics; metrics.aurc([.1, .9], [0, 1]) < 1 or sys.exit('no area')",
            "scipy",
        ),
        ("from corea.analysis import style; style.grid(2, 1, 1)", "matplotlib"),
    ],
)
def test_what_is_heavy_is_there_when_it_is_used(code, loads):
    done = run("-c", f"import sys; {code}; '{loads}' in sys.modules or sys.exit('not loaded')")
    assert done.returncode == 0, done.stderr
