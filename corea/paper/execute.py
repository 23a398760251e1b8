"""Run a notebook by papermill, refusing what papermill lets pass: `python -m corea.paper.execute IN OUT -p name value`.

papermill only logs a parameter that the notebook does not know, and injects at the top where no cell is tagged `parameters`:
both are errors here.  The executed notebook appears under its name only when every cell has run.

`python -m corea.paper.execute --publish EXECUTED SOURCE` puts what an executed notebook shows into its source, for readers.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from corea.support.files import STATIC, atomic_write


def known_parameters(path: Path) -> set[str]:
    """Names that the notebook's `parameters` cell assigns; ValueError where it has none."""
    import papermill

    inferred = set(papermill.inspect_notebook(str(path)))
    if not inferred:
        raise ValueError(
            f"{path} has no cell tagged 'parameters', or none of its lines assigns a value"
        )
    return inferred


def run(source: Path, target: Path, parameters: dict[str, object], *, quiet: bool = False) -> None:
    """Execute `source` in its own folder and write the result to `target`.  Raises ValueError for unknown parameters."""
    import papermill

    if not source.exists():
        raise ValueError(f"no notebook at {source}")
    if unknown := sorted(set(parameters) - (known := known_parameters(source))):
        raise ValueError(
            f"{source} has no parameter {unknown[0]!r}; it has {', '.join(sorted(known))}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.stem}.part.ipynb")
    os.environ[STATIC] = "1"  # pictures in the place of controls that no kernel will move
    papermill.execute_notebook(
        str(source), str(aside), parameters, kernel_name="python3", cwd=str(source.parent),
        log_output=not quiet, progress_bar=not quiet,
    )  # fmt: skip
    os.replace(aside, target)


def publish(executed: Path, source: Path) -> None:
    """Copy the outputs of an executed notebook into its source, cell by cell; progress bars and timings are left out.

    Raises ValueError where the code of the two is not the same: outputs must never stand under code that did not make them.
    """
    import nbformat

    theirs, ours = (nbformat.read(path, as_version=4) for path in (executed, source))
    ran = [
        c
        for c in theirs.cells
        if c.cell_type == "code" and "injected-parameters" not in c.metadata.get("tags", [])
    ]
    cells = [c for c in ours.cells if c.cell_type == "code"]
    if [c.source for c in ran] != [c.source for c in cells]:
        raise ValueError(f"{executed} was made from other code than {source} has now; run it again")
    for number, (cell, shown) in enumerate(zip(cells, ran, strict=True), start=1):
        cell.outputs = [output for output in shown.outputs if _is_for_readers(output)]
        cell.execution_count = number
        for output in cell.outputs:
            if "execution_count" in output:
                output["execution_count"] = number
    with atomic_write(source) as file:
        nbformat.write(ours, file)


def _is_for_readers(output) -> bool:
    is_widget = "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    return output.output_type != "error" and output.get("name") != "stderr" and not is_widget


def main(arguments: list[str] | None = None) -> int:
    """The command line; one clear line and exit status 1 where the notebook fails."""
    cli = argparse.ArgumentParser(
        prog="python -m corea.paper.execute", description=__doc__.splitlines()[0]
    )
    cli.add_argument("source", type=Path)
    cli.add_argument("target", type=Path)
    cli.add_argument(
        "--publish",
        action="store_true",
        help="put the outputs of SOURCE, executed, into TARGET, its source",
    )
    cli.add_argument(
        "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE")
    )
    given = cli.parse_args(arguments)
    import yaml
    from papermill.exceptions import PapermillExecutionError

    try:
        if given.publish:
            publish(given.source, given.target)
        else:
            run(
                given.source,
                given.target,
                {name: yaml.safe_load(value) for name, value in given.parameter},
            )
    except PapermillExecutionError as error:
        print(
            f"{given.source}: cell {error.exec_count}: {error.ename}: {error.evalue}",
            file=sys.stderr,
        )
        return 1
    except (ValueError, OSError) as error:  # OSError: a full disk, a folder that cannot be written
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
