"""Records: the schema is kept on write and read, and a file is there whole or not at all."""

from __future__ import annotations

import errno
import os
import resource

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corea.records import SCHEMA, RecordsError, read_records, write_records
from corea.support import files
from corea.support.files import atomic_write


def toy(rows: int = 4, **columns) -> pd.DataFrame:
    """Records of one system: two questions, `rows` / 2 samples each."""
    frame = pd.DataFrame({
        "profile": "test", "system": "SLM", "run": "base", "dataset": "drill", "group": "in-domain",
        "question_id": [f"q{n % 2}" for n in range(rows)], "content_id": "0" * 12, "question": "1+0=?",
        "family": "sum", "level": 1,
        "sample": [n // 2 for n in range(rows)], "answer": ["1", None] * (rows // 2), "gold": "1",
        "answer_type": "math", "correct": [True, False] * (rows // 2),
        "confidence": [0.9, None] * (rows // 2), "well_formed": True, "problems": "",
        "prompt_tokens": 10, "completion_tokens": 20, "finish": "stop", "text": "some",
        "mean_probability": 0.9, "answer_probability": [0.8, None] * (rows // 2), "numerals": "0.9:0.8 1:0.1",
        "seed": 0, "settings": "0" * 12, "commit": "unknown",
    })  # fmt: skip
    return frame.assign(**columns)


def test_what_is_written_is_read(tmp_path):
    write_records(toy(), tmp_path / "a.parquet")
    found = read_records(tmp_path / "a.parquet")
    assert list(found) == SCHEMA.names
    assert found[["question_id", "sample"]].to_numpy().tolist() == [
        ["q0", 0], ["q0", 1], ["q1", 0], ["q1", 1],
    ]  # fmt: skip
    assert found["answer"].isna().tolist() == [False, False, True, True]
    assert found["confidence"].tolist()[:2] == [0.9, 0.9] and found["confidence"].isna().sum() == 2
    assert found["correct"].dtype == bool
    assert found.dtypes[["level", "prompt_tokens", "seed"]].astype(str).tolist() == [
        "int16", "int32", "int64",
    ]  # fmt: skip


def test_equal_rows_in_any_order_give_equal_bytes(tmp_path):
    frame = toy(200)
    write_records(frame, tmp_path / "a.parquet")
    again = frame.sample(frac=1, random_state=1)[list(reversed(SCHEMA.names))]
    write_records(again.astype({"confidence": object, "level": "int8"}), tmp_path / "b.parquet")
    write_records(read_records(tmp_path / "a.parquet"), tmp_path / "c.parquet")
    contents = [(tmp_path / f"{name}.parquet").read_bytes() for name in "abc"]
    assert contents[0] == contents[1] == contents[2]


def test_odd_text_survives(tmp_path):
    texts = ["", "\x00\x07", "é\u202e𝔸", '"a,b"\r\n' * 1000]
    write_records(toy(text=texts, sample=range(4), question_id="q"), tmp_path / "a.parquet")
    assert read_records(tmp_path / "a.parquet")["text"].tolist() == texts


def test_records_without_rows_or_without_any_confidence_are_allowed(tmp_path):
    write_records(toy().iloc[:0], tmp_path / "a.parquet")
    write_records(toy(confidence=None, answer=None), tmp_path / "b.parquet")
    found = read_records([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    assert len(found) == 4 and found["confidence"].isna().all()


BAD = {
    "missing column": (lambda f: f.drop(columns="gold"), "'gold' is missing"),
    "unknown column": (lambda f: f.assign(extra=1), "'extra' is unknown"),
    "a number where text belongs": (lambda f: f.assign(gold=1), "'gold' must be string"),
    "text where a number belongs": (lambda f: f.assign(level="1"), "'level' must be int16"),
    "0 and 1 for a bool": (lambda f: f.assign(correct=1), "'correct' must be bool"),
    "text for a confidence": (lambda f: f.assign(confidence="0.5"), "'confidence' must be double"),
    "a bool for a confidence": (lambda f: f.assign(confidence=True), "'confidence' must be double"),
    "mixed types": (lambda f: f.assign(answer=["1", 1, None, "1"]), "'answer' must be string"),
    "too large for its type": (lambda f: f.assign(level=40_000), "'level' must be int16"),
    "a lone surrogate": (
        lambda f: f.assign(text=pd.Series(["\ud800"] * 4, dtype=object)),
        "'text' must be string",
    ),
    "null text": (lambda f: f.assign(family=None), "'family' must not be null"),
    "an answer graded without gold": (
        lambda f: f.assign(gold=None),
        "'correct' must be null exactly if 'gold' is",
    ),
    "null bool": (
        lambda f: f.assign(well_formed=[True, None] * 2),
        "'well_formed' must not be null",
    ),
    "an answer not graded": (
        lambda f: f.assign(correct=[True, None] * 2),
        "'correct' must be null exactly if 'gold' is",
    ),
    "confidence over 1": (lambda f: f.assign(confidence=1.01), r"'confidence' must be in \[0, 1\]"),
    "confidence under 0": (lambda f: f.assign(confidence=-0.1), "'confidence' must be in"),
    "infinite confidence": (lambda f: f.assign(confidence=np.inf), "'confidence' must be in"),
    "unknown group": (lambda f: f.assign(group="ood"), "'group' must be one of in-domain"),
    "unknown finish": (lambda f: f.assign(finish="eos"), "'finish' must be one of stop, length"),
    "negative tokens": (lambda f: f.assign(prompt_tokens=-1), "'prompt_tokens' must be at least 0"),
    "a doubled row": (lambda f: f.assign(sample=0), "'q0' of 'drill', sample 0, is there twice"),
}


@pytest.mark.parametrize("case", BAD)
def test_records_that_break_the_schema_are_not_written(case, tmp_path):
    breaks, message = BAD[case]
    with pytest.raises(RecordsError, match=message) as caught:
        write_records(breaks(toy()), tmp_path / "a.parquet")
    assert "a.parquet" in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing column", "'gold' is missing"),
        ("unknown column", "'extra' is unknown"),
        ("text where a number belongs", "'level' must be int16: it holds .*string"),
        ("0 and 1 for a bool", "'correct' must be bool: it holds int64"),
        ("confidence over 1", "'confidence' must be in"),
        ("null text", "'family' .*null"),
        ("a doubled row", "is there twice"),
    ],
)
def test_foreign_files_that_break_the_schema_are_not_read(case, message, tmp_path):
    frame = BAD[case][0](toy())
    table = pa.Table.from_pandas(frame, preserve_index=False)
    for n, name in enumerate(table.column_names):  # all that can be right, is
        broken = BAD[case][1].split("'")[1]
        if name in SCHEMA.names and name != broken:
            column = table.column(n).cast(SCHEMA.field(name).type)
            table = table.set_column(n, name, column)
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(RecordsError, match=message) as caught:
        read_records(tmp_path / "a.parquet")
    assert "a.parquet" in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_doubled_and_absent_files_are_clear_errors(tmp_path):
    write_records(toy(), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    for name, content in {"half": whole[: len(whole) // 2], "empty": b"", "text": b"hello"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RecordsError, match=f"{name}: not a parquet file"):
            read_records(tmp_path / name)
    (tmp_path / "b.parquet").write_bytes(whole)
    with pytest.raises(RecordsError, match=r"b\.parquet: SLM's answer to 'q0' .* also in another"):
        read_records([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    with pytest.raises(RecordsError, match="no files"):
        read_records([])
    with pytest.raises(FileNotFoundError):
        read_records(tmp_path / "absent.parquet")


def test_systems_that_were_asked_two_texts_under_one_id_are_not_compared(tmp_path):
    write_records(toy(), tmp_path / "a.parquet")
    write_records(toy(system="LLM", question="1+9=?"), tmp_path / "b.parquet")
    message = "2 files read together: question 'q0' of 'drill' has two texts, one of them '1.9=.'; records of one question"
    with pytest.raises(RecordsError, match=message) as caught:
        read_records([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    assert "\n" not in str(caught.value)
    with pytest.raises(RecordsError, match=r"c\.parquet: question 'q0' of 'drill' has two texts"):
        write_records(
            toy(question=["1+0=?"] * 3 + ["1+9=?"], question_id="q0", sample=range(4)),
            tmp_path / "c.parquet",
        )


# --- writing when things go wrong -----------------------------------------------------------------


def test_a_full_disk_while_syncing_leaves_the_old_file(tmp_path, monkeypatch):
    write_records(toy(), tmp_path / "a.parquet")
    before = (tmp_path / "a.parquet").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*a\.parquet: No space left") as caught:
        write_records(toy(8), tmp_path / "a.parquet")
    assert caught.value.errno == errno.ENOSPC and "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]
    assert (tmp_path / "a.parquet").read_bytes() == before


def test_a_disk_that_fills_in_the_middle_of_a_file_leaves_nothing(tmp_path):
    """The operating system itself refuses to let the file grow, as it does on a full disk."""
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    text = [os.urandom(20_000).hex() for _ in range(8)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match=r"cannot write .*a\.parquet") as caught:
            write_records(toy(8, text=text), tmp_path / "a.parquet")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_or_interrupt_while_writing_leaves_the_old_file(error, tmp_path):
    path = tmp_path / "a.txt"
    with atomic_write(path) as stream:
        stream.write("old\n")
    with pytest.raises(error), atomic_write(path) as stream:
        stream.write("new")
        raise error
    assert path.read_bytes() == b"old\n"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_that_is_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "folder").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*folder/a\.parquet"):
        write_records(toy(), tmp_path / "folder" / "a.parquet")


def test_what_a_killed_write_left_is_removed_by_the_next_write_to_that_file_alone(tmp_path):
    name = "odd[1].parquet"
    left, other = tmp_path / f".{name}.a1b2c3_d.part", tmp_path / f".{name}.bak.a1b2c3_d.part"
    for path in (left, other):
        path.write_text("half")
    with atomic_write(tmp_path / name) as stream:
        stream.write("whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, other.name])
