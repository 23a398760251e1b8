"""The library's docstrings, written to be read in the source, as reStructuredText for Sphinx.

A docstring here is plain text with names in single backticks, Markdown tables, and simple tables of
reStructuredText.
"""

from __future__ import annotations

import re

_NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
_ITEM = re.compile(r"(- |\d+\. )")


def as_rst(lines: list[str]) -> list[str]:
    """The lines of a docstring in reStructuredText."""
    found: list[str] = []
    in_table = in_code = in_list = (
        False  # a table of reStructuredText, whose columns must not be moved; an indented example
    )
    for line, before in zip(lines, ["", *lines], strict=False):
        in_table = bool(re.fullmatch(r"=+( +=+)+\s*", line)) or (in_table and bool(line.strip()))
        starts_item, is_indented = bool(_ITEM.match(line)), line.startswith(" ")
        if is_indented and not before.strip() and not (in_code or in_list or in_table):
            in_code = True
            found += ["::", ""]
        in_code = in_code and (is_indented or not line.strip())
        if starts_item and before.strip() and not in_list:
            found.append("")
        in_list = starts_item or (in_list and (is_indented or not line.strip()))
        if in_table or in_code:
            found.append(line)
        elif line.startswith("|") and line.rstrip().endswith("|"):
            found += _row(line, is_first=not (found and found[-1].startswith("     - ")))
        else:
            found.append(_text(line))
    return found


def _row(line: str, *, is_first: bool) -> list[str]:
    """A row of a Markdown table as one of a list-table; nothing for the rule under the head."""
    cells = [_text(cell.strip()) for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
    if all(re.fullmatch(r":?-+:?", cell) for cell in cells):
        return []
    head = ["", ".. list-table::", "   :header-rows: 1", ""] if is_first else []
    return [*head, *(f"   {'*' if n == 0 else ' '} - {cell}" for n, cell in enumerate(cells))]


def _text(line: str) -> str:
    """A line outside of tables: marks that mean nothing here escaped, code in double backticks,
    names left as references."""
    parts = re.split(r"(``.+?``|`[^`]+`|\*\*[^\s*][^*]*\*\*)", line)
    # Every second part is code or bold, as split keeps what it splits at.
    return "".join(_escaped(part) if n % 2 == 0 else _code(part) for n, part in enumerate(parts))


def _code(part: str) -> str:
    inner = part.strip("`")
    return part if part.startswith(("``", "**")) or is_name(inner) else f"``{inner}``"


def is_name(code: str) -> bool:
    """Whether code is a name that a page may be about, and nothing more."""
    return bool(_NAME.fullmatch(code))


def _escaped(part: str) -> str:
    return re.sub(r"([*|]|(?<=\w)_(?!\w))", r"\\\1", part)
