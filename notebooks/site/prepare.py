"""Lay out the sources of the site in one folder: pages, notebooks as they stand executed, claims,
the course, the API.

`python notebooks/site/prepare.py FOLDER` empties FOLDER and fills it, `conf.py` included, for
Sphinx to build from.  Nothing is executed, and nothing is written beside the sources themselves.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import sys
from pathlib import Path

SITE = Path(__file__).resolve().parent
ROOT = SITE.parent.parent
COURSE = ROOT / "notebooks" / "course"
_CLAIMS = """# Claims, one by one

What held here of the paper's claims, firm ones first, then of others' claims and of ours: a claim
is a relation to a bound, and its verdict under the headline decoding is computed from the 95%
interval over questions and training seeds. *Placebos* are systems that pass it too and should not:
the untrained SLM, or a coin. [Its notebook]({notebook}) shows how, and the other decodings.
Numbers are fractions.

{counts}

{table}
"""


def main(folder: Path) -> None:
    """Fill the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(
        SITE,
        folder,
        ignore=shutil.ignore_patterns("__pycache__", "explorer", "*.txt", "prepare.py"),
    )
    shutil.copytree(
        SITE / "explorer", folder / "_static" / "explorer", ignore=shutil.ignore_patterns("*.html")
    )
    shutil.copy(SITE / "explorer" / "explorer.html", folder / "explorer.html.part")
    shutil.copy(
        ROOT / "figures" / "cpu" / "cost_accuracy.png", folder / "_static" / "cost_accuracy.png"
    )
    (folder / "notebooks").mkdir()
    notebooks = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    for path in notebooks:
        _copy_notebook(path, folder / "notebooks" / path.name)
    _write_claims(folder, next(path.stem for path in notebooks if "claims" in path.stem))
    _write_api(folder / "api")
    _write_course(folder)


def _copy_notebook(source: Path, target: Path) -> None:
    """A notebook with links that lead somewhere, and images that say what they show."""
    notebook = json.loads(source.read_text(encoding="utf-8"))
    heading = ""
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            found = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
            heading = found[-1] if found else heading
            cell["source"] = _on_site(text, source.parent)
            continue
        cell["outputs"] = [
            output for output in cell.get("outputs", []) if not _is_widget_alone(output)
        ]
        if any("image/png" in output.get("data", {}) for output in cell["outputs"]):
            cell["metadata"]["mystnb"] = {
                "image": {"alt": f"Figure: {heading}. The text above says what it shows."}
            }
    target.write_text(json.dumps(notebook), encoding="utf-8")


def _is_widget_alone(output: dict) -> bool:
    """Whether an output is a widget without a picture of it: it would be a line of code on a page
    where no kernel runs."""
    kinds = set(output.get("data", {}))
    is_shown = any(kind.startswith("image/") or kind == "text/html" for kind in kinds)
    return "application/vnd.jupyter.widget-view+json" in kinds and not is_shown


def _on_site(text: str, folder: Path) -> str:
    """Markdown of `folder` for a page one folder down: links to what is on the site lead there,
    others become their own words."""

    def link(match: re.Match) -> str:
        label, (target, _, anchor) = match["label"], match["target"].partition("#")
        if not target or re.match(r"https?:", target):
            return match[0]
        page = _page_of((folder / target).resolve())
        return label if page is None else f"[{label}](../{page}{'#' * bool(anchor)}{anchor})"

    return re.sub(r"(?<!!)\[(?P<label>[^\]]*)\]\((?P<target>[^)\s]+)\)", link, text)


def _page_of(path: Path) -> str | None:
    """Where a file of the checkout stands on the site; None where it does not."""
    notebooks = ROOT / "notebooks"
    if not path.exists():
        return None
    if path.parent == notebooks and path.suffix == ".ipynb":
        return f"notebooks/{path.name}"
    if path.parent.parent == notebooks / "course" and path.suffix == ".ipynb":
        return f"course/{path.name}"
    if path.parent == SITE and path.suffix == ".md":
        return path.name
    pages = {
        COURSE / "README.md": "course/index.md",
        ROOT / "figures" / "cpu" / "claims.md": "claims.md",
    }
    return pages.get(path)


def _write_claims(folder: Path, notebook: str) -> None:
    """The claims' table, verdicts to the front, under a head that counts them."""
    lines = (ROOT / "figures" / "cpu" / "claims.md").read_text(encoding="utf-8").splitlines()
    del lines[1]  # the rule under the head
    names, *rows = ([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines)
    claims = [dict(zip(names, row, strict=True)) for row in rows]
    verdicts = [claim["verdict"] for claim in claims]
    counts = ", ".join(
        f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts)
    )
    head = ["claim", "verdict", "placebos", "here", "bound", "in the source", "source", "fails if"]
    table = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for c in claims:
        passed = [who for who in ("base", "coin") if c[f"placebo {who}"] == "reproduced"]
        cells = (
            f"{c['claim']} ({c['scope']})",
            f"**{c['verdict']}**",
            " and ".join(passed),
            f"{c['value']} [{c['low']}, {c['high']}]" if c["value"] else "no runs",
            c["bound"],
            c["paper value"],
            c["source"],
            c["fails if"],
        )
        table.append(f"| {' | '.join(cells)} |")
    counts = f"Of {len(claims)}: **{counts}**."
    page = _CLAIMS.format(
        notebook=f"notebooks/{notebook}.ipynb", counts=counts, table="\n".join(table)
    )
    (folder / "claims.md").write_text(page, encoding="utf-8")


def modules_of(package: Path) -> dict[str, Path]:
    """Every module below the package's folder by its dotted name without the package's: those at
    the top first."""
    found = {
        ".".join(path.relative_to(package).with_suffix("").parts): path
        for path in package.rglob("*.py")
        if path.stem != "__init__"
    }
    return dict(sorted(found.items(), key=lambda item: (item[0].count("."), item[0])))


def _write_api(folder: Path) -> None:
    """A page per module, and one that lists them by folder, each under the folder's head."""
    folder.mkdir()
    modules = modules_of(ROOT / "corea")
    by_folder: dict[str, list[str]] = {}
    for name in modules:
        by_folder.setdefault(name.rpartition(".")[0], []).append(name)
    lines = ["# The library", ""]
    hidden = ["```{toctree}", ":hidden:", ""]
    for subject, names in by_folder.items():
        head = _head(ROOT / "corea" / subject / "__init__.py")
        lines += [*([f"## corea.{subject}", ""] if subject else []), head, ""]
        for name in names:
            first = _head(modules[name]).splitlines()[0]
            lines += [f"[`corea.{name}`]({name}.md)", f": {first}", ""]
            hidden.append(name)
            directive = f".. automodule:: corea.{name}\n   :members:"
            page = f"# corea.{name}\n\n```{{eval-rst}}\n{directive}\n```\n"
            (folder / f"{name}.md").write_text(page, encoding="utf-8")
    (folder / "index.md").write_text("\n".join([*lines, *hidden, "```", ""]), encoding="utf-8")


def _head(path: Path) -> str:
    """A module's docstring, without importing it."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def _write_course(folder: Path) -> None:
    """The course's page, its assignments as students get them, and its place in the contents."""
    sys.path.insert(0, str(COURSE))
    from grading import assignments, converters

    (folder / "course").mkdir()
    for path in assignments.assignments():
        shown = converters.released(assignments.read(path))
        (folder / "course" / path.name).write_text(json.dumps(shown), encoding="utf-8")
    text = _on_site((COURSE / "README.md").read_text(encoding="utf-8"), COURSE)
    text += "\n```{toctree}\n:hidden:\n:glob:\n\n0*\n```\n"
    (folder / "course" / "index.md").write_text(text, encoding="utf-8")
    index = (folder / "index.md").read_text(encoding="utf-8")
    index = index.replace("\napi/index\n", "\napi/index\ncourse/index\n")
    index = index.replace(":caption: Library", ":caption: Library and course")
    (folder / "index.md").write_text(index, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
