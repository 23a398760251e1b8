"""Shared fixtures: peers' cases and traces are read where they lie beside the project, never copied into it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile(
    "corea", deadline=None
)  # a first call imports what is heavy, and another test may use the other core
settings.load_profile("corea")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of peers' cases and traces beside the checkout; tests that need it skip without it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "cases").is_dir():
        pytest.skip("../shared/cases is not beside this checkout: peers' cases cannot be read")
    return folder
