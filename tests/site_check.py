"""The built site in a browser: links, the explorer's numbers against the library's, axe-core,
phones and keyboards.

`make site-check` runs this; it needs chromium, and npm for axe-core.  COREA_SCREENSHOTS names a
folder for pictures to look at.
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pack_explorer as explorer
import pytest

from corea import cascade
from corea.analysis import systems
from corea.costs import Price, PriceList
from corea.paper import runs
from corea.paper.profiles import load_profile

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "build" / "site"
AXE = ROOT / ".venv-site" / "node_modules" / "axe-core" / "axe.min.js"
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PAGES = ("index.html", "explorer.html", "claims.html", "api/index.html", "api/cascade.html", "notebooks/07_cascade.html",
         "course/index.html", "course/06-open.html")  # fmt: skip
SETTINGS = [
    (group, slm, source, ratio, threshold)
    for group in ("in-domain", "ood-math", "ood-nonmath")
    for slm, source in (
        ("L1-SLM", "Verb"),
        ("RLVR-SLM", "AvgProb"),
        ("SLM", "Digits"),
        ("L1-SLM", "Probe"),
        ("RLVR-SLM", "Gain"),
    )
    for ratio in (0.05, 0.197, 0.6)
    for threshold in ("0.000", "0.500", "0.767", "0.955", "all")
]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    if path is None:
        pytest.fail("chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture
def page(browser):
    """A page that fails the test on any error of a script and any file that does not load."""
    opened, wrong = browser.new_page(viewport={"width": 1280, "height": 900}), []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("requestfailed", lambda request: wrong.append(request.url))
    opened.on(
        "response", lambda response: wrong.append(response.url) if response.status >= 400 else None
    )
    yield opened
    opened.close()
    assert not wrong


def url(path: str, state: str = "") -> str:
    return (SITE / path).as_uri() + state


# --- links ----------------------------------------------------------------------------------------


class _Links(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids |= {given.get("id"), given.get("name")}
        self.links += [given[name] for name in ("href", "src") if given.get(name)]


def test_every_internal_link_and_anchor_leads_somewhere():
    pages = {path: _Links(path.read_text(encoding="utf-8")) for path in SITE.rglob("*.html")}
    wrong, checked = [], 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                assert parts.scheme in ("http", "https", "mailto", "data"), link
                continue
            checked += 1
            assert not link.startswith("/"), (
                f"{path} links to {link}, which breaks under a sub-path"
            )
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            known = target in pages and (
                not parts.fragment or unquote(parts.fragment) in pages[target].ids
            )
            if not (known or (target not in pages and target.is_file())):
                wrong.append(f"{path.relative_to(SITE)}: {link}")
    assert not wrong, "\n".join(wrong[:20])
    assert checked > 1000


def test_nothing_is_loaded_from_elsewhere():
    for path in SITE.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        for tag in (
            '<script src="http',
            '<script async="async" src="http',
            'rel="stylesheet" href="http',
            '<img src="http',
        ):
            assert tag not in text, f"{path} has {tag}"


# --- the explorer ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def expected():
    """Cost, Pass@1 and share deferred of every setting, by the library."""
    records = runs.load_records(load_profile("cpu").reference(), explorer.SYSTEMS)
    llm = records[records["system"] == "LLM"]

    @functools.cache
    def curve(group: str, slm: str, source: str, ratio: float):
        rows = systems.rows_of(systems.System(f"{slm}-{source}", slm, source), records)
        parts = [part[part["group"] == group] for part in (rows, llm)]
        return systems.mean_curve(
            *parts, PriceList(Price(ratio, ratio), Price(1.0, 1.0), "test"), 0.5
        )

    def at(group, slm, source, ratio, threshold):
        found = curve(group, slm, source, ratio)
        limit = cascade.DEFER_ALL if threshold == "all" else float(threshold)
        row = found.iloc[np.searchsorted(found["threshold"], limit)]
        return [row["cost"], row["pass1"], row["llm_share"]]

    return at


def test_the_explorers_numbers_are_the_librarys(page, expected):
    page.goto(url("explorer.html"))
    for setting in SETTINGS:
        names = ("group", "slm", "source", "ratio", "threshold")
        page.evaluate(
            "hash => { location.hash = hash; }",
            "&".join(f"{n}={v}" for n, v in zip(names, setting, strict=True)),
        )
        page.wait_for_function("t => document.getElementById('threshold-shown').textContent === t",
                               arg="defer all" if setting[-1] == "all" else setting[-1])  # fmt: skip
        page.evaluate("() => new Promise(requestAnimationFrame)")
        shown = [
            float(page.get_attribute(f"#{name}", "data-value"))
            for name in ("cost", "pass1", "deferred")
        ]
        np.testing.assert_allclose(
            shown, expected(*setting), rtol=0, atol=1e-12, err_msg=str(setting)
        )


def test_controls_work_by_keyboard_and_the_url_follows(page):
    page.goto(url("explorer.html"))
    page.focus("#threshold")
    page.keyboard.press("ArrowRight")
    assert "threshold=0.768" in page.url
    page.keyboard.press("End")
    assert "threshold=all" in page.url and page.get_attribute("#deferred", "data-value") == "1"
    page.focus("#group-in-domain")
    page.keyboard.press("ArrowDown")
    assert "group=ood-math" in page.url
    page.focus("#keep-all")
    page.keyboard.press("Enter")
    assert "threshold=0.000" in page.url
    page.wait_for_function(
        "() => document.getElementById('spoken').textContent.startsWith('Threshold 0.000: cost')"
    )
    before = page.text_content("#cost")
    page.reload()
    assert page.text_content("#cost") == before and "group=ood-math" in page.url


def test_questions_change_sides_when_the_threshold_moves(page):
    page.goto(url("explorer.html", "#source=AvgProb&threshold=0.950"))
    kept = page.text_content("#flips-kept li:first-child .explorer-question")
    while page.text_content("#flips-kept li:first-child .explorer-question") == kept:
        page.click("#next-change")
    assert kept in page.text_content("#flips-deferred")


# --- pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious(browser, path, scheme, width):
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened.goto(url(path))
    opened.add_script_tag(path=str(AXE))
    found = opened.evaluate("() => axe.run({resultTypes: ['violations']})")["violations"]
    if folder := os.environ.get("COREA_SCREENSHOTS"):
        name = f"{path.replace('/', '-')[:-5]}-{scheme}-{width}.png"
        opened.screenshot(path=str(Path(folder) / name), full_page=path == "explorer.html")
    overflow = opened.evaluate(
        "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    opened.close()
    serious = [
        f"{v['id']} ({v['impact']}): {v['help']}: "
        + "; ".join(node["html"][:150] for node in v["nodes"][:3])
        for v in found
        if v["impact"] in ("serious", "critical")
    ]
    assert not serious, "\n".join(serious)
    assert overflow <= 0, f"{path} is {overflow} pixels wider than a screen of {width}"


def test_the_site_works_under_a_sub_path(page, tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "corea").symlink_to(SITE)
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for path in PAGES:
            page.goto(f"http://127.0.0.1:{server.server_port}/deep/er/corea/{path}")
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass
