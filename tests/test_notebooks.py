"""Notebooks keep their form, and the runner refuses what papermill lets pass."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from corea.paper import execute
from corea.paper.profiles import load_profile, read_profiles

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def save(folder: Path, *cells: tuple[str, list[str]]) -> Path:
    """A notebook of code cells, given as (source, tags)."""
    made = [nbformat.v4.new_code_cell(source, metadata={"tags": tags}) for source, tags in cells]
    path = folder / "toy.ipynb"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata=kernel), path)
    return path


def test_the_notebooks_are_numbered_without_a_gap():
    assert [int(path.name[:2]) for path in NOTEBOOKS] == list(range(1, len(NOTEBOOKS) + 1))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_keeps_its_form(path):
    """A title, one parameters cell, short and narrow cells, nothing defined in it, a sentence before the code, a check last."""
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    for cell in code:
        lines = cell.source.splitlines()
        assert len(lines) <= 25 and max(map(len, lines)) <= 76, cell.source
        defined = [
            n
            for n in ast.walk(ast.parse(cell.source))
            if isinstance(n, (ast.FunctionDef, ast.ClassDef))
        ]
        assert not defined, "functions are defined in corea/ and shown here"
        assert not [o for o in cell.get("outputs", []) if o.output_type == "error"]
    assert "assert" in code[-1].source, "the last cell checks the headline"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_between_notebooks_lead_somewhere(path):
    text = "\n".join(
        c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown"
    )
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / target).exists(), target


def test_a_run_puts_its_parameters_in_and_appears_only_when_whole(tmp_path):
    source = save(tmp_path, ("seed = 1", ["parameters"]), ("assert seed == '7', seed", []))
    execute.run(source, tmp_path / "out" / "done.ipynb", {"seed": "7"})
    assert (tmp_path / "out" / "done.ipynb").exists()
    command = [
        sys.executable,
        "-m",
        "corea.paper.execute",
        str(source),
        str(tmp_path / "failed.ipynb"),
    ]
    failed = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert failed.returncode == 1
    assert failed.stderr.strip().splitlines()[-1].endswith("cell 2: AssertionError: 1")
    assert not (tmp_path / "failed.ipynb").exists()


def test_parameters_of_the_command_line_keep_their_types(tmp_path):
    source = save(
        tmp_path,
        ("x = 1\ny = 'z'\nw = False", ["parameters"]),
        ("assert (x, y, w) == (0.5, 'cpu', True)", []),
    )
    given = [word for pair in (("x", "0.5"), ("y", "cpu"), ("w", "true")) for word in ("-p", *pair)]
    assert execute.main([str(source), str(tmp_path / "out.ipynb"), *given]) == 0


@pytest.mark.parametrize(
    ("tags", "parameters", "says"),
    [
        (["parameters"], {"sede": 1}, "has no parameter 'sede'; it has seed"),
        ([], {"seed": 1}, "has no cell tagged 'parameters'"),
        ([], {}, "has no cell tagged 'parameters'"),
    ],
    ids=["unknown name", "no tag", "no tag, nothing asked"],
)
def test_what_papermill_would_let_pass_is_refused(tmp_path, tags, parameters, says):
    source = save(tmp_path, ("seed = 1", tags))
    with pytest.raises(ValueError, match=says) as caught:
        execute.run(source, tmp_path / "out.ipynb", parameters)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.ipynb").exists()


def test_a_notebook_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="no notebook at"):
        execute.run(tmp_path / "none.ipynb", tmp_path / "out.ipynb", {})


def test_publishing_shows_outputs_and_nothing_of_the_run(tmp_path):
    source = save(
        tmp_path,
        ("seed = 1", ["parameters"]),
        ("import sys\nprint('noise', file=sys.stderr)\nseed", []),
    )
    execute.run(source, tmp_path / "done.ipynb", {"seed": "7"})
    execute.publish(tmp_path / "done.ipynb", source)
    cells = nbformat.read(source, as_version=4).cells
    assert len(cells) == 2 and cells[0].source == "seed = 1"
    (shown,) = cells[1].outputs
    assert shown.data["text/plain"] == "'7'"
    changed = save(tmp_path, ("seed = 1", ["parameters"]), ("seed + 1", []))
    with pytest.raises(ValueError, match="made from other code"):
        execute.publish(tmp_path / "done.ipynb", changed)


def test_a_full_disk_is_one_line(tmp_path, monkeypatch, capsys):
    source = save(tmp_path, ("seed = 1", ["parameters"]))

    def full(*_):
        raise OSError(28, "No space left on device", "out.ipynb")

    monkeypatch.setattr(execute.os, "replace", full)
    assert execute.main([str(source), str(tmp_path / "out.ipynb")]) == 1
    assert (
        capsys.readouterr().err.strip().splitlines()[-1]
        == "[Errno 28] No space left on device: 'out.ipynb'"
    )


def test_make_tests_is_make_test_although_a_folder_has_that_name():
    said = [
        subprocess.run(["make", "-n", name], cwd=ROOT, capture_output=True, text=True).stdout
        for name in ("test", "tests")
    ]
    assert said[0] == said[1] and "-m pytest tests" in said[0]


def test_a_wrong_profile_name_is_one_line_from_make():
    done = subprocess.run(
        ["make", "paper", "PROFILE=gpu"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "unknown profile 'gpu'; use one of cpu, paper, single-gpu, smoke" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_machine_without_the_profiles_gpus_is_one_line_before_anything_is_installed():
    done = subprocess.run(
        ["make", "paper", "PROFILE=paper"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode != 0
    assert (
        "profile 'paper' is for 8 GPUs of 80 GB, and this machine has none; `make plan PROFILE=paper`"
        in done.stderr.splitlines()[0]
    )


@pytest.mark.parametrize("profile", ["", "base", "reference", ".."])
def test_make_clean_removes_nothing_but_a_profile(profile):
    done = subprocess.run(
        ["make", "clean", f"PROFILE={profile}"], cwd=ROOT, capture_output=True, text=True
    )
    assert (
        done.returncode != 0
        and f"unknown profile '{profile}'; use one of cpu, paper, single-gpu, smoke" in done.stderr
    )
    assert (ROOT / "data/base/slm/manifest.json").exists()


def test_a_profile_refuses_an_unknown_key():
    with pytest.raises(ValueError, match="unknown setting 'temprature' for a profile; use one of"):
        load_profile("cpu").replace(temprature=1.0)


PROFILES = (ROOT / "corea" / "paper" / "profiles.yaml").read_text()


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ("  samples: 4\n", "  sample: 4\n", "unknown setting 'sample' for profile 'cpu'; use one"),
        ("beta: 0.03", "betta: 0.03", "unknown setting 'betta' for grpo of profile 'cpu'; use one"),
        ("ood_size: 300", "ood_size: many", "ood_size='many' of profile 'cpu' is not int | None"),
        (
            "rate: 1.0e-6",
            "rate: 1e-6",
            "learning_rate='1e-6' of grpo of profile 'paper' is not float",
        ),
        ("gpus: 8", "gpus: true", "gpus=True of compute of profile 'paper' is not int"),
        ("engine: vllm", "engine: tgi", "engine='tgi' is not one of transformers, vllm"),
        ("  llm: data/base/llm\n", "", "profile 'cpu': .* missing 1 required .* 'llm'"),
        ("    steps: 250\n", "    steps: 0\n", "grpo of profile 'paper': steps, .* must all be 1"),
    ],
)
def test_a_wrong_line_of_the_profiles_is_one_line(right, wrong, says):
    assert right in PROFILES
    with pytest.raises(ValueError, match=re.escape(says) if ".*" not in says else says) as caught:
        read_profiles(PROFILES.replace(right, wrong, 1))
    assert "\n" not in str(caught.value)
