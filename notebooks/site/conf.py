"""How Sphinx builds the site, from the folder that `prepare.py` lays out."""

import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from docstrings import as_rst, is_name
from docutils import nodes
from sphinx.domains.python import PyXRefRole

project = "corea"
author = "The corea developers"
copyright = "2026, the corea developers, MIT licence"
html_title = "corea"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["*.py", "_static", "*.part"]

# Notebooks are shown as they were executed; their widgets as the pictures stored beside them.
nb_execution_mode = "off"
nb_ipywidgets_js = {}
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 3

default_role = "name-or-code"  # what single backticks mean
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css", "explorer/explorer.css"]
html_js_files = ["site.js"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0a4f8f", "color-brand-content": "#0a4f8f"},
    "dark_css_variables": {"color-brand-primary": "#7fbcf5", "color-brand-content": "#7fbcf5"},
}


class NameOrCode(PyXRefRole):
    """A reference to a name of the library where that is what the text is; else code, as it
    stands."""

    def run(self):
        if not is_name(self.text):
            return [nodes.literal(self.rawtext, self.text)], []
        self.name = "py:obj"
        return super().run()


def setup(app):
    app.add_role("name-or-code", NameOrCode())
    app.connect("autodoc-process-docstring", _rewrite)
    app.connect(
        "html-page-context", _make_accessible, priority=900
    )  # after the theme has built its navigation


def _rewrite(app, what, name, it, options, lines):
    # A module's own lines: an example that is all of its text after the first line would lose its
    # indentation otherwise.
    lines[:] = as_rst((it.__doc__ or "").splitlines() if what == "module" else lines)


def _make_accessible(app, pagename, templatename, context, doctree):
    """Mend what Sphinx writes and screen readers stumble over: captions without a level, a
    signature's lines as half a list."""
    if "furo_navigation_tree" in context:
        tree = context["furo_navigation_tree"]
        context["furo_navigation_tree"] = tree.replace(
            'role="heading"', 'role="heading" aria-level="2"'
        )
    if "body" in context:
        context["body"] = re.sub(r"<dl>\n((?:<dd>.*</dd>\n)+)</dl>", _as_lines, context["body"])


def _as_lines(match):
    lines = match[1].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")
    return f'<span class="sig-lines">\n{lines}</span>'
