"""Run a notebook by papermill, or put what an executed one shows into its source (`--publish`)."""

import argparse
import os
import sys
from pathlib import Path

import yaml

from corea.support.files import STATIC, atomic_write


def run(source: Path, target: Path, parameters: dict[str, object]) -> None:
    """Execute `source` in its own folder; `target` appears only when every cell has run.

    Raises ValueError if there is no such notebook or parameter, or a cell fails.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    if not source.exists():
        raise ValueError(f"no notebook at {source}")
    known = sorted(papermill.inspect_notebook(str(source)))
    if not known:
        raise ValueError(f"{source} has no cell tagged 'parameters' that assigns a value")
    if unknown := sorted(set(parameters) - set(known)):
        raise ValueError(f"{source} has no parameter {unknown[0]!r}; it has {', '.join(known)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.stem}.part.ipynb")
    os.environ[STATIC] = "1"  # pictures instead of controls that no kernel will move
    options = {"kernel_name": "python3", "log_output": True, "cwd": source.parent}
    try:
        papermill.execute_notebook(source, aside, parameters, **options)
    except PapermillExecutionError as error:
        reason = f"{error.ename}: {error.evalue}"
        raise ValueError(f"{source}: cell {error.exec_count}: {reason}") from error
    os.replace(aside, target)


def publish(executed: Path, source: Path) -> None:
    """Copy outputs into the source, cell by cell, without progress bars and timings.

    Raises ValueError if the two differ in code: outputs must stand under what made them.
    """
    import nbformat

    shown, notebook = (nbformat.read(path, as_version=4) for path in (executed, source))
    ran, cells = _code_cells(shown), _code_cells(notebook)
    if [cell.source for cell in ran] != [cell.source for cell in cells]:
        raise ValueError(f"{executed} was made from other code than {source} has now; run it again")
    for number, (cell, done) in enumerate(zip(cells, ran, strict=True), start=1):
        cell.outputs = [output for output in done.outputs if _is_for_readers(output)]
        for counted in (cell, *(o for o in cell.outputs if "execution_count" in o)):
            counted["execution_count"] = number
    with atomic_write(source) as file:
        nbformat.write(notebook, file)


def _code_cells(notebook) -> list:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [c for c in cells if "injected-parameters" not in c.metadata.get("tags", [])]


def _is_for_readers(output) -> bool:
    is_widget = "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    return output.output_type != "error" and output.get("name") != "stderr" and not is_widget


def main(arguments: list[str] | None = None) -> int:
    """The command line; one clear line and exit status 1 if the notebook fails."""
    parser = argparse.ArgumentParser(prog="python -m corea.paper.execute", description=__doc__)
    parser.add_argument("source", type=Path, help="with --publish, the executed notebook")
    parser.add_argument("target", type=Path, help="with --publish, its source")
    parser.add_argument("--publish", action="store_true")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    given = parser.parse_args(arguments)
    try:
        if given.publish:
            publish(given.source, given.target)
        else:
            run(given.source, given.target, {name: yaml.safe_load(text) for name, text in given.p})
    except (ValueError, OSError) as error:  # OSError: a full disk, a folder that cannot be written
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
