"""The golden file: hashes by which runs are found again, and the bytes of the tracked tables and figures."""

import json

import pandas as pd
import pytest

from corea.paper.profiles import load_profile
from tests import golden

KEPT = golden.golden()
REFERENCE = load_profile("cpu").reference().data


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("profiles", golden.profile_hashes),
        ("settings", golden.setting_hashes),
        ("runs", golden.run_hashes),
        ("records", golden.record_hashes),
        ("csv", lambda: golden.drawn(golden.ROOT / "figures" / "cpu")),
    ],
)
def test_nothing_moved(kind, made):
    assert made() == KEPT[kind]


def test_the_tracked_run_is_found_by_these_hashes():
    ablations = list(REFERENCE.glob("ablations/*/settings.json"))
    assert len(ablations) > 25, "a pattern that finds nothing checks nothing"
    for path in ablations:
        name = f"cpu/{path.parent.name}"
        assert json.loads(path.read_text())["settings"] == KEPT["runs"].get(
            name, json.loads(path.read_text())["settings"]
        )
    for system in ("L1-SLM", "RLVR-SLM", "Brier-SLM"):
        assert (
            json.loads((REFERENCE / "runs" / system / "settings.json").read_text())["settings"]
            == KEPT["runs"][f"cpu/{system}"]
        )
    for system in ("SLM", "LLM"):
        records = list((REFERENCE / "records" / system).glob("*.parquet"))
        assert len(records) == 8
        for path in records:
            found = pd.read_parquet(path, columns=["settings"])["settings"].unique()
            assert list(found) == [KEPT["records"][f"cpu/{system}/{path.stem}"]]
