"""The site's parts that need neither Sphinx nor a browser: what the explorer reads, its numbers by node, its page, the layout.

`make site-check` (tests/site_check.py) looks at the built pages in a browser.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pack_explorer as explorer
import pandas as pd
import pytest

from corea import cascade
from corea.analysis import systems, tables
from corea.costs import Price, PriceList
from corea.paper import runs
from corea.paper.profiles import load_profile

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "notebooks" / "site"
THRESHOLDS = (0, 100, 299, 300, 301, 500, 767, 800, 900, 955, 999, 1000, explorer.STEPS + 1)
RATIOS = (0.0, 0.197, 1.0)


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    return runs.load_records(load_profile("cpu").reference(), explorer.SYSTEMS)


@pytest.fixture(scope="module")
def data(records) -> dict:
    profile = load_profile("cpu").reference()
    return explorer.explorer_data(records, runs.prices_of(profile))


@pytest.fixture(scope="module")
def node(data, tmp_path_factory):
    """Runs JavaScript that sees `data` and `cascade`, and gives back what it returns."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed: the explorer's numbers are not computed here")
    script = tmp_path_factory.mktemp("explorer") / "records.js"
    explorer.write(data, script)
    head = f"require({str(script)!r}); const data = COREA_RECORDS, cascade = require({str(SITE / 'explorer/compute.js')!r});"

    def run(body: str):
        code = f"{head} console.log(JSON.stringify((() => {{ {body} }})()));"
        done = subprocess.run(["node", "-e", code], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def rows_of(records: pd.DataFrame, slm: str, source: str) -> pd.DataFrame:
    return systems.rows_of(systems.System(f"{slm}-{source}", slm, source), records)


def unpacked(text: str) -> np.ndarray:
    place = {letter: n for n, letter in enumerate(explorer._ALPHABET)}
    return np.array([64 * place[a] + place[b] for a, b in zip(text[::2], text[1::2], strict=True)])


# --- what the explorer reads ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("confidence", "step"),
    [
        (0.0, 0),
        (0.3, 300),
        (0.6, 600),
        (0.7, 700),
        (0.2999999, 299),
        (1.0, 1000),
        (0.0009, 0),
        (np.nan, explorer.NO_CONFIDENCE),
    ],
)
def test_a_confidence_is_stored_as_the_last_threshold_that_keeps_it(confidence, step):
    (found,) = explorer.steps_reached([confidence])
    assert found == step
    grid = np.arange(explorer.STEPS + 1) / explorer.STEPS
    assert [bool(cascade.keeps(confidence, t)) for t in grid] == [
        n <= step != explorer.NO_CONFIDENCE for n in range(len(grid))
    ]


@pytest.mark.parametrize("value", [-1, 4096])
def test_what_does_not_fit_is_refused(value):
    with pytest.raises(ValueError, match="does not fit two characters; use 0 to 4095"):
        explorer.pack([0, value])


def test_the_file_holds_what_the_records_hold(data, records, tmp_path):
    explorer.write(data, tmp_path / "records.js")
    assert (tmp_path / "records.js").stat().st_size < 1_000_000
    llm = records[records["system"] == "LLM"]
    for dataset, packed in data["datasets"].items():
        theirs = llm[llm["dataset"] == dataset].sort_values(cascade.KEY)
        tokens = theirs["prompt_tokens"] + theirs["completion_tokens"]
        assert (unpacked(packed["llm"]) == 2 * tokens + theirs["correct"]).all()
        for slm, columns in packed["slms"].items():
            own = rows_of(records, slm, "Digits")
            own = own[own["dataset"] == dataset].sort_values(cascade.KEY)
            tokens = own["prompt_tokens"] + own["completion_tokens"]
            assert (unpacked(columns["outcome"]) == 2 * tokens + own["correct"]).all()
            assert (unpacked(columns["Digits"]) == explorer.steps_reached(own["confidence"])).all()


def test_ece_and_auroc_are_those_of_the_table(data, records):
    table = tables.table_slm(records, resamples=0)
    means = table[table["dataset"] == "mean"].set_index(["group", "system"])
    for group, found in data["calibration"].items():
        for slm in explorer.SLMS:
            for name in ("ece", "auroc"):
                assert found[f"{slm}-Verb"][name] == pytest.approx(
                    means.loc[(group, slm), name], abs=1e-8
                )
        assert found["L1-SLM-Gain"]["ece"] is None, "a score is no probability"


def test_an_example_is_the_row_it_names(data, records):
    given = records[records["sample"] == 0].set_index(["system", "question_id"])
    texts = dict(zip(records["question"], records["question_id"], strict=True))
    for example in (e for found in data["examples"].values() for e in found[::10]):
        outcomes = unpacked(data["datasets"][example["dataset"]]["slms"]["L1-SLM"]["outcome"])
        row = given.loc[("L1-SLM", texts[example["question"]])]
        assert outcomes[example["row"]] % 2 == row["correct"]
        assert example["gold"] == row["gold"]


# --- its numbers, by node -------------------------------------------------------------------------


def library_point(curve: pd.DataFrame, step: int) -> list[float]:
    """Cost, Pass@1 and share deferred at a step, from `systems.mean_curve`: the next threshold keeps the same answers."""
    threshold = step / explorer.STEPS if step <= explorer.STEPS else cascade.DEFER_ALL
    row = curve.iloc[np.searchsorted(curve["threshold"], threshold)]
    return [row["cost"], row["pass1"], row["llm_share"]]


def test_nodes_numbers_are_the_librarys(node, data, records):
    """Every group, small model and source; some ratios and thresholds, on and beside the steps at which confidences stand."""
    found = node(f"""
        const all = {{}};
        for (const group of Object.keys(data.groups))
        for (const slm of {list(explorer.SLMS)})
        for (const source of {list(explorer.SOURCES)}) {{
          const parts = cascade.groupSums(data, group, slm, source);
          for (const ratio of {list(RATIOS)}) all[[group, slm, source, ratio]] = {list(THRESHOLDS)}.map((n) => {{
            const p = cascade.point(parts, ratio, n); return [p.cost, p.pass1, p.deferred];
          }});
        }}
        return all;""")
    llm = records[records["system"] == "LLM"]
    checked = 0
    for slm in explorer.SLMS:
        for source in explorer.SOURCES:
            rows = rows_of(records, slm, source)
            for group in data["groups"]:
                parts = [part[part["group"] == group] for part in (rows, llm)]
                for ratio in RATIOS:
                    prices = PriceList(Price(ratio, ratio), Price(1.0, 1.0), "test")
                    curve = systems.mean_curve(*parts, prices, 0.5)
                    expected = [library_point(curve, n) for n in THRESHOLDS]
                    key = f"{group},{slm},{source},{ratio:g}"
                    np.testing.assert_allclose(
                        found[key], expected, rtol=0, atol=1e-12, err_msg=key
                    )
                    checked += len(expected)
    assert checked == 3 * 15 * len(RATIOS) * len(THRESHOLDS)


def test_nodes_numbers_are_those_of_the_papers_table(node, data, records):
    ratio, threshold = data["ratio"], data["threshold"] / explorer.STEPS
    found = node(
        f"return cascade.point(cascade.groupSums(data, 'ood-math', 'L1-SLM', 'Verb'), {ratio}, {data['threshold']});"
    )
    prices = PriceList(Price(ratio, ratio), Price(1.0, 1.0), "test")
    table = tables.table_cascade(systems.verbalized(records, prices, threshold), resamples=0)
    row = table[
        (table["system"] == "L1-SLM-Verb")
        & (table["group"] == "ood-math")
        & (table["dataset"] == "mean")
    ].iloc[0]
    assert found["cost"] == pytest.approx(1 - row["cost_reduction"], abs=1e-12)
    assert found["drop"] == pytest.approx(row["pass1_drop"], abs=1e-12)
    assert found["deferred"] == pytest.approx(row["llm_share"], abs=1e-12)


def test_the_next_change_keeps_other_answers(node):
    moved, kept = node("""
        const parts = cascade.groupSums(data, "in-domain", "L1-SLM", "Verb");
        const kept = (n) => parts[0].kept[n];
        const moves = [];
        for (const n of [0, 767, 800, 1000, 1001])
          for (const way of [-1, 1]) moves.push([n, way, cascade.nextChange(parts, n, way)]);
        return [moves, moves.map(([n, way, to]) => [kept(n), kept(to)])];""")
    for (n, way, to), (before, after) in zip(moved, kept, strict=True):
        assert ((to - n) * way > 0 and (after - before) * way < 0) or to == n, (n, way, to)
    assert [0, -1, 0] in moved and [1001, 1, 1001] in moved
    assert [767, 1, 900] in moved, (
        "stated confidences are tenths, so that 0.9 is the next that defers others than 0.767"
    )


def test_the_state_survives_the_url_and_nonsense_does_not_break_it(node):
    same, other = node("""
        const given = "#group=ood-math&slm=SLM&source=Probe&ratio=0.5&threshold=all";
        return [cascade.writeState(data, cascade.readState(data, given)) === given,
                cascade.readState(data, "#group=x&slm=%3Cscript%3E&ratio=-1&threshold=NaN")];""")
    assert same
    assert other == {
        "group": "in-domain",
        "slm": "L1-SLM",
        "source": "Verb",
        "ratio": 0.197,
        "n": 767,
    }


def test_flips_stand_on_both_sides_of_the_threshold(node):
    found = node(
        "return cascade.flips(cascade.examples(data, 'in-domain', 'RLVR-SLM', 'AvgProb'), 950, 3);"
    )
    assert len(found["kept"]) == len(found["deferred"]) == 3
    kept, deferred = (
        [example["confidence"] for example in found[side]] for side in ("kept", "deferred")
    )
    assert (
        kept == sorted(kept)
        and kept[0] >= 950
        and deferred == sorted(deferred, reverse=True)
        and deferred[0] < 950
    )


# --- its page, and the layout ---------------------------------------------------------------------


class _Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.ids, self.labels, self.controls, self.pictures = set(), set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids.add(given.get("id"))
        if tag == "label":
            self.labels.add(given["for"])
        if tag in ("input", "select"):
            self.controls.append(given["id"])
        if given.get("role") == "img":
            self.pictures.append(given)


def test_every_control_has_a_label_and_every_picture_a_text():
    page = _Page((SITE / "explorer/explorer.html").read_text())
    assert page.controls == ["ratio", "threshold"] and set(page.controls) <= page.labels
    for picture in page.pictures:
        assert {picture["aria-labelledby"], picture["aria-describedby"]} <= page.ids
    assert len(page.pictures) == 2


def test_the_script_asks_only_for_elements_that_are_there():
    page = _Page((SITE / "explorer/explorer.html").read_text())
    asked = set(re.findall(r'byId\("([\w-]+)"\)', (SITE / "explorer/explorer.js").read_text()))
    assert len(asked) > 10 and asked <= page.ids


def _module(name: str):
    spec = importlib.util.spec_from_file_location(name, SITE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


prepare = _module("prepare")


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [(["image/png", "text/plain"], 1), (["text/plain"], 0), (["text/html", "text/plain"], 1)],
    ids=["a widget with its picture stays", "one without goes", "a table stays"],
)
def test_a_widget_is_shown_by_its_picture_or_not_at_all(tmp_path, kinds, expected):
    data = {"application/vnd.jupyter.widget-view+json": {}} | dict.fromkeys(kinds, "x")
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": "# 1 · Bins"},
        {
            "cell_type": "code",
            "metadata": {},
            "source": "show()",
            "outputs": [{"output_type": "display_data", "data": data}],
        },
        {
            "cell_type": "code",
            "metadata": {},
            "source": "",
            "outputs": [{"output_type": "stream", "text": "text"}],
        },
    ]
    (tmp_path / "in.ipynb").write_text(json.dumps({"cells": cells}))
    prepare._copy_notebook(tmp_path / "in.ipynb", tmp_path / "out.ipynb")
    _, shown, stream = json.loads((tmp_path / "out.ipynb").read_text())["cells"]
    assert len(shown["outputs"]) == expected and stream["outputs"]
    assert ("mystnb" in shown["metadata"]) == ("image/png" in kinds)


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("[7](07_cascade.ipynb#prices)", "[7](../notebooks/07_cascade.ipynb#prices)"),
        ("[drag](site/explorer.md)", "[drag](../explorer.md)"),
        ("[claims](../figures/cpu/claims.md)", "[claims](../claims.md)"),
        (
            "[that page](https://arxiv.org/abs/2603.03752)",
            "[that page](https://arxiv.org/abs/2603.03752)",
        ),
        ("[here](#prices)", "[here](#prices)"),
        ("[the course](course/README.md)", "[the course](../course/index.md)"),
        ("[5](course/05-cascade/05-cascade.ipynb)", "[5](../course/05-cascade.ipynb)"),
        ("the [README](../README.md), [none](no.ipynb)", "the README, none"),
    ],
)
def test_a_link_leads_to_a_page_or_becomes_its_words(link, expected):
    assert prepare._on_site(link, ROOT / "notebooks") == expected


def test_the_layout_has_every_notebook_and_module_and_no_link_that_leads_nowhere(tmp_path):
    prepare.main(tmp_path / "site")
    laid = tmp_path / "site"
    assert {p.name for p in (laid / "notebooks").iterdir()} == {
        p.name for p in (ROOT / "notebooks").glob("[0-9]*.ipynb")
    }
    assert {p.name.removesuffix(".md") for p in (laid / "api").iterdir()} == set(
        prepare.modules_of(ROOT / "corea")
    ) | {"index"}
    contents = (laid / "api" / "index.md").read_text()
    for head in (ROOT / "corea").glob("*/__init__.py"):
        introduction = ast.get_docstring(ast.parse(head.read_text()))
        assert f"## corea.{head.parent.name}\n\n{introduction}\n" in contents, head.parent.name
    shown = {path.stem: path.read_text() for path in (laid / "course").glob("*.ipynb")}
    assert set(shown) == {path.stem for path in (ROOT / "notebooks" / "course").glob("0*/*.ipynb")}
    assert not any("SOLUTION" in text or "HIDDEN" in text for text in shown.values()), (
        "students read the site"
    )
    sources = {path: path.read_text() for path in laid.rglob("*.md")}
    for path in (laid / "notebooks").iterdir():
        cells = json.loads(path.read_text())["cells"]
        sources[path] = "\n".join(
            "".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"
        )
    for path, text in sources.items():
        for target in re.findall(r"\]\(([^)#:\s]+)\)", text):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["a `name` and `make paper`"], ["a `name` and ``make paper``"]),
        (["|a - b| and *all* of pass1_ and `*args`"], [r"\|a - b\| and \*all\* of pass1\_ and ``*args``"]),
        (["| a | b |", "|---|---|", "| 1 | `x y` |"],
         ["", ".. list-table::", "   :header-rows: 1", "", "   * - a", "     - b", "   * - 1", "     - ``x y``"]),
        (["10 bins **closed on the left**"], ["10 bins **closed on the left**"]),
        (["===  ===", "a|b  *c", "===  ==="], ["===  ===", "a|b  *c", "===  ==="]),
        (["Run:", "", "    a *b", "", "Then `c d`."], ["Run:", "", "::", "", "    a *b", "", "Then ``c d``."]),
        (["Rules:", "1. *one", "   more", "2. two"], ["Rules:", "", r"1. \*one", "   more", "2. two"]),
    ],
    ids=["names are references, other code is not", "marks mean nothing", "a Markdown table", "bold", "columns are not moved",
         "an example", "a list after its sentence"],
)  # fmt: skip
def test_docstrings_become_restructured_text(lines, expected):
    assert _module("docstrings").as_rst(lines) == expected
