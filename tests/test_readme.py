"""The README's relative links lead somewhere, and the modules it names are there."""

import re
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data" / "README.md"]


def test_every_relative_link_leads_to_a_file():
    for path in TEXTS:
        for target in re.findall(r"\]\(([^)#:\s]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_every_module_that_is_named_is_there():
    named = set()
    for path in TEXTS:
        for name in re.findall(r"`corea\.([a-z_.]+)", path.read_text()):
            parts = name.strip(".").split(".")
            named.add(".".join(parts[:2]) if (ROOT / "corea" / parts[0]).is_dir() else parts[0])
    import corea

    assert len(named) >= 4
    missing = [
        name for name in named if name not in corea.__all__ and find_spec(f"corea.{name}") is None
    ]
    assert not missing
