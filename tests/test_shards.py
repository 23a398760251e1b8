"""Records made in shards, on several machines say, are those made at once; a merge sees what is missing or doubled."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest

from corea.engines.loading import load_model
from corea.engines.local import TransformersEngine
from corea.paper import runs
from corea.paper.profiles import load_profile
from corea.paper.shards import Shard, merge_shards
from corea.prompts import load_tokenizer
from corea.questions.base import Question
from corea.questions.load import load_questions
from corea.records import RecordsError, read_records, write_records
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A profile, and what asks one set of it: whole, or one shard of three."""
    root = tmp_path_factory.mktemp("root")
    folder = save_tiny(root / "model")
    profile = load_profile("smoke").replace(
        root=str(root), in_domain_size=7, samples=2, max_new_tokens=8
    )

    def ask(name: str, shard: str = "1/1"):
        engine = TransformersEngine(
            load_model(folder),
            load_tokenizer(folder),
            name="SLM",
            max_new_tokens=8,
            keep_logprobs=True,
        )
        (path,) = runs.answer_sets(
            profile,
            engine,
            "m",
            "base",
            {"drill": root / name / "drill.parquet"},
            Shard.parse(shard),
        )
        return path

    whole = ask("whole")
    for n in (1, 2, 3):
        ask("parts", f"{n}/3")
    return ask, whole, root / "parts", root


@pytest.fixture
def parts(made, tmp_path):
    """A copy of the shards, to be spoilt."""
    return shutil.copytree(made[2], tmp_path / "parts")


def merge(folder, whole):
    rows = read_records(whole)
    texts = rows.drop_duplicates("question_id")[["question_id", "question"]]
    questions = [Question(text, id=name) for name, text in texts.itertuples(index=False)]
    return merge_shards(folder / "drill.parquet", rows["settings"].iloc[0], questions, samples=2)


def test_shards_put_together_are_the_whole(made):
    ask, whole, parts, root = made
    shutil.copytree(parts, root / "again")
    found, expected = read_records(ask("again")), read_records(whole)
    numbers = [
        "mean_probability",
        "answer_probability",
    ]  # other batches, so the last digit may differ
    pd.testing.assert_frame_equal(
        found.drop(columns=[*numbers, "numerals"]), expected.drop(columns=[*numbers, "numerals"])
    )
    np.testing.assert_allclose(found[numbers], expected[numbers], atol=2e-6)
    assert [path.name for path in (root / "again").iterdir()] == ["drill.parquet"], (
        "shards that were merged are gone"
    )


def test_a_shard_that_lies_there_is_kept(made, capsys):
    ask, _, parts, _ = made
    before = (parts / "drill.shard-2-of-3.parquet").stat().st_mtime_ns
    ask("parts", "2/3")
    assert (
        "kept" in capsys.readouterr().out
        and (parts / "drill.shard-2-of-3.parquet").stat().st_mtime_ns == before
    )


def test_questions_are_dealt_out_once_each():
    questions = load_questions("drill", "test", size=11)
    dealt = [q for n in range(1, 5) for q in Shard(n, 4).share(questions)]
    assert dealt == questions
    assert max(len(Shard(n, 4).share(questions)) for n in range(1, 5)) == 3


def without_one(folder):
    (folder / "drill.shard-2-of-3.parquet").unlink()


def another_count(folder):
    shutil.copy(folder / "drill.shard-1-of-3.parquet", folder / "drill.shard-1-of-4.parquet")


def a_row_less(folder):
    path = folder / "drill.shard-3-of-3.parquet"
    write_records(read_records(path).iloc[1:], path)


def a_row_of_another(folder):
    path = folder / "drill.shard-3-of-3.parquet"
    rows = read_records(path)
    rows.loc[0, "question_id"] = "elsewhere"
    write_records(rows, path)


def a_row_twice(folder):
    first, path = (
        read_records(folder / "drill.shard-1-of-3.parquet"),
        folder / "drill.shard-3-of-3.parquet",
    )
    write_records(pd.concat([read_records(path), first.iloc[:1]]), path)


def other_settings(folder):
    path = folder / "drill.shard-3-of-3.parquet"
    write_records(read_records(path).assign(settings="0" * 12), path)


def damaged(folder):
    path = folder / "drill.shard-3-of-3.parquet"
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without_one, "shard 2/3 is missing"),
        (another_count, "shards of several counts lie beside each other"),
        (a_row_less, "1 rows are missing from its shards"),
        (a_row_of_another, "1 rows are missing from its shards, first"),
        (a_row_twice, "is also in another of the files"),
        (other_settings, "rows of its shards were made with other settings"),
        (damaged, "shard-3-of-3.parquet: not a parquet file, or a damaged one"),
    ],
)
def test_shards_that_are_not_the_whole_are_refused_and_kept(spoil, says, made, parts):
    spoil(parts)
    before = sorted(path.name for path in parts.iterdir())
    with pytest.raises(RecordsError, match=says):
        merge(parts, made[1])
    assert sorted(path.name for path in parts.iterdir()) == before


def test_shards_of_an_older_corea_are_given_their_questions(made, parts):
    """By the hash of their settings, which proves them; no model is asked."""
    for path in parts.iterdir():
        pd.read_parquet(path).drop(columns=["question", "content_id"]).to_parquet(path)
    assert merge(parts, made[1])
    columns = ["question_id", "question", "content_id"]
    pd.testing.assert_frame_equal(
        read_records(parts / "drill.parquet")[columns], read_records(made[1])[columns]
    )


@pytest.mark.parametrize("text", ["2", "0/3", "4/3", "2/3/4", "a/b", "-1/2"])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="shard"):
        Shard.parse(text)
