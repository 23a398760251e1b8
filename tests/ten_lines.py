"""The README's ten lines, run: those that ask, on recorded answers and without any extra.

`python tests/ten_lines.py` needs only `corea` with its core dependencies, and no other test module.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "data" / "reference" / "cpu" / "records"
QUESTIONS = 100
# What an extra brings; None in `sys.modules` makes an import fail as if it were not installed.
EXTRAS = (
    "torch", "transformers", "trl", "datasets", "accelerate", "peft", "filelock", "openai",
    "starlette", "uvicorn", "sklearn", "seaborn", "matplotlib", "ipywidgets", "IPython",
    "papermill", "jupyterlab", "yaml",
)  # fmt: skip


def halves() -> tuple[str, str]:
    """The lines of the README that train, and those that ask."""
    section = (ROOT / "README.md").read_text().split("\n## Ten lines\n")[1]
    block = section.split("```python\n")[1].split("```")[0]
    training, asking = block.split("slm, llm = ")
    return training, "import corea\nslm, llm = " + asking


def ask(folder: Path) -> dict:
    """Run the lines that ask, with recorded answers in the servers' place; returns their names."""
    import pandas as pd

    import corea
    from corea.engines.recorded import Recorded

    systems = {"small": "L1-SLM", "large": "LLM"}
    paths = [RECORDS / system / "calibration.parquet" for system in systems.values()]
    records = pd.concat([corea.read_records(path) for path in paths])
    questions = records.drop_duplicates("question_id")[:QUESTIONS]
    with open(folder / "held_out.jsonl", "w") as file:
        for row in questions.itertuples():
            file.write(json.dumps({"question": row.question, "answer": row.gold}) + "\n")
    corea.Server = lambda url, model: Recorded(records, systems[model])
    names = {"URL1": "http://127.0.0.1:1/v1", "URL2": "http://127.0.0.1:2/v1"}
    before = os.getcwd()
    os.chdir(folder)
    try:
        exec(halves()[1].replace("What is 17 * 23?", questions["question"].iloc[0]), names)
    finally:
        os.chdir(before)
        del corea.Server
    return names


def main(arguments: list[str]) -> None:
    """With `--core`, nothing of an extra can be imported."""
    if arguments == ["--core"]:
        sys.modules.update(dict.fromkeys(EXTRAS))
    with tempfile.TemporaryDirectory() as folder:
        names = ask(Path(folder))
    answer, policy, records = (names[name] for name in ("answer", "policy", "records"))
    assert len(records) == 2 * 4 * QUESTIONS and records["correct"].notna().all()
    assert answer.text and answer.source in ("slm", "llm") and 0 <= answer.confidence <= 1
    print(f"threshold {policy.threshold}, {answer.source}: {answer.answer}")


if __name__ == "__main__":
    main(sys.argv[1:])
