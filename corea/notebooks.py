"""Run a notebook by papermill, refusing what papermill lets pass: `python -m corea.notebooks IN OUT -p name value`.

papermill only logs a parameter that the notebook does not know, and injects at the top where no cell is tagged `parameters`:
both are errors here.  The executed notebook appears under its name only when every cell has run.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def known_parameters(path: Path) -> set[str]:
    """Names that the notebook's `parameters` cell assigns; ValueError where it has none."""
    import papermill

    inferred = set(papermill.inspect_notebook(str(path)))
    if not inferred:
        raise ValueError(f"{path} has no cell tagged 'parameters', or none of its lines assigns a value")
    return inferred


def run(source: Path, target: Path, parameters: dict[str, object], *, quiet: bool = False) -> None:
    """Execute `source` in its own folder and write the result to `target`.  Raises ValueError for unknown parameters."""
    import papermill

    if not source.exists():
        raise ValueError(f"no notebook at {source}")
    if unknown := sorted(set(parameters) - (known := known_parameters(source))):
        raise ValueError(f"{source} has no parameter {unknown[0]!r}; it has {', '.join(sorted(known))}")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.stem}.part.ipynb")
    papermill.execute_notebook(
        str(source), str(aside), parameters, kernel_name="python3", cwd=str(source.parent),
        log_output=not quiet, progress_bar=not quiet,
    )  # fmt: skip
    os.replace(aside, target)


def main(arguments: list[str] | None = None) -> int:
    """The command line; one clear line and exit status 1 where the notebook fails."""
    cli = argparse.ArgumentParser(prog="python -m corea.notebooks", description=__doc__.splitlines()[0])
    cli.add_argument("source", type=Path)
    cli.add_argument("target", type=Path)
    cli.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    given = cli.parse_args(arguments)
    from papermill.exceptions import PapermillExecutionError

    try:
        run(given.source, given.target, dict(given.parameter))
    except PapermillExecutionError as error:
        print(f"{given.source}: cell {error.exec_count}: {error.ename}: {error.evalue}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
