"""The package as it is handed on: what a wheel holds and does, and papers that agree."""

from __future__ import annotations

import ast
import doctest
import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import corea
from tests import artifact, ten_lines, wheel

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """What a wheel installs, by the patterns that setuptools reads, and no checkout around it."""
    folder = tmp_path_factory.mktemp("site-packages")
    setuptools = PROJECT["tool"]["setuptools"]
    for source in [
        ROOT / "corea",
        *(
            path.parent
            for path in (ROOT / "corea").rglob("__init__.py")
            if path.parent != ROOT / "corea"
        ),
    ]:
        package = ".".join(source.relative_to(ROOT).parts)
        (folder / source.relative_to(ROOT)).mkdir(parents=True)
        for pattern in ("*.py", *setuptools["package-data"].get(package, ())):
            for path in source.glob(pattern):
                (folder / path.relative_to(ROOT)).parent.mkdir(exist_ok=True)
                shutil.copy(path, folder / path.relative_to(ROOT))
    return folder


def run(installed: Path, code: str, cwd: Path) -> subprocess.CompletedProcess:
    """Python that finds the installed package before the checkout's."""
    start = f"import sys; sys.path.insert(0, {str(installed)!r})\n"
    return subprocess.run(
        [sys.executable, "-I", "-c", start + code], cwd=cwd, capture_output=True, text=True
    )


def test_a_wheel_holds_every_file_of_the_package(installed):
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout to list the package's files from")
    held = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    assert wheel.package_files() <= held
    assert [name for name in held if name.endswith(".yaml")]


def test_without_a_checkout_the_library_works_and_writes_where_one_stands(installed, tmp_path):
    """Paths lie in the current folder, and the commit is not another project's."""
    git = ["git", "-C", str(installed), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run(
        [*git, "commit", "--quiet", "--allow-empty", "-m", "of another project"], check=True
    )
    code = """
from pathlib import Path
from corea import cascade, cli, parser, rewards
from corea.paper import profiles
from corea.questions import hub
from corea.support import files, hardware
assert parser.parse("<answer>4</answer><confidence>0.9</confidence>").confidence == 0.9
assert rewards.format_reward(["x"]) == [0.0]
assert cascade.keeps(0.9, 0.5)
assert files.checkout() is None and files.git_commit() == ("unknown", False)
assert profiles.load_profile("paper").data == Path.cwd() / "data" / "paper"
assert hub.SETS["gsm8k"].folders[-1] == Path.cwd() / "data" / "hub" / "gsm8k"
assert len(list(hardware.CONFIGURATIONS.glob("*.yaml"))) >= 2
cli.main(["--help"])
"""
    done = run(installed, code, tmp_path)
    assert done.returncode == 0 and "serve the cascade" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["cpu", "smoke"])
def test_without_a_checkout_the_mini_world_is_refused_in_one_line(name, installed, tmp_path):
    done = run(
        installed,
        f"from corea.paper import plan; sys.exit(plan.main(['--profile', {name!r}]))",
        tmp_path,
    )
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert (
        f"corea.paper.plan: profile {name!r} reads the base models in data/base of a checkout"
        in done.stderr
    )


def test_without_a_checkout_a_plan_of_the_papers_models_is_made(installed, tmp_path):
    done = run(
        installed,
        "from corea.paper import plan; sys.exit(plan.main(['--profile', 'paper']))",
        tmp_path,
    )
    assert done.returncode == 0 and "Plan of PROFILE=paper" in done.stdout, done.stderr


# --- what `import corea` gives --------------------------------------------------------------------


def test_every_name_is_there_and_comes_without_what_is_heavy(tmp_path):
    code = (
        "import sys, corea; assert set(corea.__all__) <= set(dir(corea)); "
        "names = [getattr(corea, name) for name in corea.__all__]; "
        "print(len(names), *{'torch', 'scipy', 'trl', 'openai', 'datasets'} & set(sys.modules))"
    )
    done = run(ROOT, code, tmp_path)
    assert done.returncode == 0 and done.stdout.split() == ["27"], done.stdout + done.stderr
    with pytest.raises(AttributeError, match="module 'corea' has no attribute 'no_such'"):
        _ = corea.no_such


@pytest.mark.parametrize("name", corea.__all__)
def test_what_editors_see_is_what_is_given(name):
    tree = ast.parse((ROOT / "corea" / "__init__.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    (module,) = [n.module for n in imports if name in {alias.name for alias in n.names}]
    assert getattr(importlib.import_module(module), name) is getattr(corea, name)


@pytest.mark.parametrize(
    ("name", "extra"), [("train", "train"), ("training_set", "train"), ("Server", "serve")]
)
def test_a_name_whose_extra_is_missing_says_what_to_install(name, extra, monkeypatch):
    for package in ten_lines.EXTRAS:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError) as error:
        getattr(corea, name)
    assert str(error.value).endswith(f'pip install "corea[{extra}]"')


def test_the_ten_lines_that_ask_run_without_any_extra():
    """As in an empty environment with the core's dependencies, where `make dist` runs them."""
    command = [sys.executable, str(ROOT / "tests" / "ten_lines.py"), "--core"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("threshold"), done.stderr


PUBLIC = sorted({getattr(corea, name).__module__ for name in corea.__all__})


@pytest.mark.parametrize("module", PUBLIC)
def test_the_examples_of_docstrings_hold(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0


# --- papers ---------------------------------------------------------------------------------------


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changes = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M).group(1)
    assert {
        corea.__version__,
        PROJECT["project"]["version"],
        str(citation["version"]),
        changes,
    } == {corea.__version__}


def test_one_licence_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["license"] == PROJECT["project"]["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n")


def test_the_citation_has_what_its_format_asks_for():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= set(reference) and all(reference["authors"])


def test_the_lock_file_holds_every_dependency_that_is_tested_with():
    locked = {
        line.split("==")[0].lower()
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if "==" in line
    }
    needs = dict(
        PROJECT["project"]["optional-dependencies"], core=PROJECT["project"]["dependencies"]
    )
    wanted = [need for extra in needs.keys() - {"gpu"} for need in needs[extra]]
    names = {re.match(r"[\w.-]+", need).group().lower() for need in wanted} - {"corea"}
    assert names <= locked
    assert not [need for need in wanted if "==" in need], "pins lie in the lock file"
    names = [
        line.split("==")[0] for line in (ROOT / "requirements.lock").read_text().splitlines()[1:]
    ]
    assert names == sorted(names, key=str.lower)


def test_conda_users_get_the_lock_file_and_the_checkout():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, by_pip = environment["dependencies"]
    assert python == "python=3.11" and pip == "pip"
    assert by_pip == {"pip": ["-r requirements.lock", "-e ."]}


def test_the_badges_say_what_the_files_say():
    (paper,) = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    assert dict(re.findall(r"badge/(\w+)-([\w.]+)-\w+\)", (ROOT / "README.md").read_text())) == {
        "license": PROJECT["project"]["license"],
        "python": PROJECT["project"]["requires-python"].removeprefix(">="),
        "arXiv": paper["identifiers"][0]["value"].removeprefix("arXiv:"),
    }


def test_the_artifact_appendix_holds_what_its_commands_print():
    text = artifact.PAGE.read_text().split("## Of the machine")[0]
    found = list(artifact.rows(text))
    assert len(found) > 8
    for item, value, command in found:
        assert value == artifact.output(command), f"{item}: run `make artifact`"
