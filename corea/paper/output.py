"""Tables and figures as files: numbers as CSV, where they come from as JSON, and forms to read."""

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from corea import __version__
from corea.analysis import style
from corea.support.files import atomic_write, git_commit, settings_hash, sha256_of

_PACKAGES = (
    "math-verify matplotlib numpy pandas pyarrow scikit-learn scipy seaborn torch transformers trl"
)
_HEADINGS = {
    "pass1": "Pass@1", "pass1_drop": "Pass@1 drop", "ece": "ECE", "auroc": "AUROC",
    "brier": "Brier", "aurc": "AURC", "completion_tokens": "tokens", "llm_share": "LLM share",
}  # fmt: skip
_DECIMALS = {"levels": 1, "completion_tokens": 1}
_TEXT = ("system", "group", "dataset")


def provenance(profile: str, seed: int, settings: object, paths: Sequence[str | Path]) -> dict:
    """What a result came from: code, settings, versions, and the SHA-256 of the files read."""
    commit, dirty = git_commit()
    versions = {name: version(name) for name in _PACKAGES.split()}
    return {
        "commit": commit,
        "dirty": dirty,
        "profile": profile,
        "seed": seed,
        "settings": settings_hash(settings),
        "versions": {"corea": __version__, "python": platform.python_version(), **versions},
        "records": {"/".join(Path(p).parts[-2:]): sha256_of(p) for p in sorted(paths, key=str)},
    }


def save_table(frame: pd.DataFrame, stem: str | Path, provenance: Mapping) -> None:
    """Write stem.csv (numbers), .md and .tex (to read) and .json (provenance)."""
    _save_numbers(frame, stem, provenance)
    _write(f"{stem}.md", _markdown(_readable(frame)))
    _write(f"{stem}.tex", _latex(_readable(frame)))


def save_figure(figure, stem: str | Path, frame: pd.DataFrame, provenance: Mapping) -> None:
    """Write stem.pdf, .png, .csv (the numbers drawn) and .json (provenance), without a date."""
    import matplotlib

    _save_numbers(frame, stem, provenance)
    with matplotlib.rc_context(style.settings()):
        for kind, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):
            with atomic_write(f"{stem}.{kind}", "wb") as stream:
                figure.savefig(stream, format=kind, metadata=metadata)


def _save_numbers(frame: pd.DataFrame, stem: str | Path, provenance: Mapping) -> None:
    floats = frame.select_dtypes("float").round(6) + 0.0  # no "-0.0"
    _write(f"{stem}.csv", frame.assign(**floats).to_csv(index=False, lineterminator="\n"))
    _write(f"{stem}.json", json.dumps(provenance, indent=2, sort_keys=True) + "\n")


def _write(path: str, text: str) -> None:
    with atomic_write(path) as stream:
        stream.write(text)


def _readable(frame: pd.DataFrame) -> pd.DataFrame:
    """The table as text: rounded, and an interval in the cell of its value."""
    text = pd.DataFrame({name: _rounded(frame[name]) for name in frame}, dtype=object)
    for name in [name for name in frame if f"{name}_low" in frame]:
        low, high = text.pop(f"{name}_low"), text.pop(f"{name}_high")
        text[name] = text[name].where(low == "", text[name] + " [" + low + ", " + high + "]")
    return text.rename(columns=lambda name: _HEADINGS.get(name, name.replace("_", " ")))


def _rounded(column: pd.Series) -> list[str]:
    decimals = _DECIMALS.get(str(column.name), 3)
    form = f"{{:z.{decimals}f}}" if pd.api.types.is_float_dtype(column) else "{}"
    return ["" if pd.isna(value) else form.format(value) for value in column]


def _markdown(table: pd.DataFrame) -> str:
    rule = ["---" if name in _TEXT else "---:" for name in table]
    rows = [list(table), rule, *table.to_numpy().tolist()]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _latex(table: pd.DataFrame) -> str:
    r"""A booktabs tabular, systems apart; a wide one fits a page in `table*` with `\small`."""
    align = "".join("l" if name in _TEXT else "r" for name in table)
    lines = table.to_latex(index=False, escape=True, column_format=align).splitlines()
    for row in range(len(table) - 1, 0, -1):
        if "system" in table and table["system"][row] != table["system"][row - 1]:
            lines.insert(lines.index(r"\midrule") + 1 + row, r"\midrule")
    return "\n".join([*lines, ""])
