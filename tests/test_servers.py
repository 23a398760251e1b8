"""The engine behind an OpenAI-compatible server, with a real client, real sockets, and a server that fails on purpose."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import nbformat
import pytest
from nbclient import NotebookClient

from corea import parser
from corea.costs import Price
from corea.questions.load import load_questions
from corea.serving import client
from corea.serving.client import Budget, BudgetError, Server, ServerError
from tests.faulty import FaultyServer


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """The client's first pause before it tries again is half a second: less here."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)


@pytest.fixture(scope="module")
def questions():
    return load_questions("drill", "test", size=12)


def engine(server: FaultyServer, **options) -> Server:
    options = {
        "name": "tiny",
        "max_new_tokens": 40,
        "timeout": 1.0,
        "concurrency": 4,
        "instruction": None,
    } | options
    return Server(server.url, options.pop("model", "tiny"), **options)


def test_completions_come_in_order_with_the_servers_own_token_counts(questions):
    done = []
    with FaultyServer() as server:
        found = engine(server).complete(questions, samples=2, progress=done.append)
    assert sum(done) == 24 and server.asked.total() == 24
    for question, group in zip(questions, found, strict=True):
        assert len(group) == 2
        for completion in group:
            response = parser.parse(completion.text)
            assert response.answer == question.text.strip() and response.confidence == 0.7
            assert (completion.prompt_tokens, completion.completion_tokens, completion.finish) == (
                20,
                30,
                "stop",
            )
            assert completion.logprobs is None


def test_requests_under_way_are_bounded(questions):
    with FaultyServer() as server:
        engine(server, concurrency=3).complete(questions, samples=3)
    assert 1 <= server.most <= 3


@pytest.mark.parametrize("fault", [429, 500, 503, "malformed", "cut", "stalled", "empty"])
def test_what_passes_is_tried_again_and_paid_once(questions, fault):
    with FaultyServer(
        lambda question, nth: fault if nth <= 2 and question == questions[3].text else None
    ) as server:
        found = engine(server, timeout=0.4).complete(questions)
    assert len(found) == 12 and all(group[0].text for group in found)
    assert server.asked[questions[3].text] == 3 and server.paid[questions[3].text] == 1
    assert server.paid.total() == 12


def test_a_storm_of_429_passes(questions):
    with FaultyServer(lambda question, nth: 429 if nth <= 3 else None) as server:
        engine(server).complete(questions)
    assert server.paid.total() == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api_key": "wrong"}, r"refused the key \(HTTP 401\); set OPENAI_API_KEY or api_key"),
        (
            {"api_key": "right", "model": "huge"},
            r"knows no model 'huge', or serves no chat completions \(HTTP 404\)",
        ),
    ],
    ids=["key", "model"],
)
def test_what_does_not_pass_is_one_line_at_once(questions, options, message):
    with FaultyServer(key="right") as server:
        with pytest.raises(ServerError, match=message) as caught:
            engine(server, **options).complete(questions)
        assert "\n" not in str(caught.value) and max(server.asked.values()) == 1


def test_a_bad_request_is_not_repeated(questions):
    with (
        FaultyServer(lambda *_: 400) as server,
        pytest.raises(ServerError, match=r"refused the request \(HTTP 400\)"),
    ):
        engine(server).complete(questions)
    assert max(server.asked.values()) == 1


def test_a_server_that_never_answers_is_one_line(questions):
    with (
        FaultyServer(lambda *_: 503) as server,
        pytest.raises(ServerError, match="no answer in 2 tries, last: HTTP 503; is the server up"),
    ):
        engine(server, max_retries=1).complete(questions[:1])


def test_no_server_is_one_line(questions):
    with FaultyServer() as server:
        url = server.url
    client = Server(url, "tiny", name="tiny", max_new_tokens=4, max_retries=1)
    with pytest.raises(ServerError, match=r"gave no answer in 2 tries, last: Connection error"):
        client.complete(questions[:1])


def test_what_was_finished_is_not_paid_again_after_a_failure(questions, tmp_path):
    """The server breaks after a few answers; the second run asks for what is missing alone, and gives what one run gives."""
    journal = tmp_path / "journal.jsonl"
    broken = {q.text for q in questions[6:]}
    with FaultyServer(lambda question, nth: 400 if question in broken else None) as server:
        with pytest.raises(ServerError):
            engine(server, journal=journal, concurrency=2).complete(questions)
        first = server.paid.total()
        assert 0 < first == len(journal.read_text().splitlines())
        server.faults = lambda *_: None
        found = engine(server, journal=journal).complete(questions)
        assert server.paid.total() == 12 and max(server.paid.values()) == 1
        assert found == engine(server).complete(questions)


def test_a_line_cut_off_by_a_kill_is_dropped_and_asked_again(questions, tmp_path):
    journal = tmp_path / "journal.jsonl"
    with FaultyServer() as server:
        whole = engine(server, journal=journal).complete(questions)
        text = journal.read_bytes()
        journal.write_bytes(text[:-17])
        assert engine(server, journal=journal).complete(questions) == whole
        assert server.asked.total() == 13
    assert len([json.loads(line) for line in journal.read_text().splitlines()]) == 12


def test_a_foreign_journal_is_one_clear_line(questions, tmp_path):
    journal = tmp_path / "journal.jsonl"
    journal.write_text('{"key": "a", "text": "b"}\n')
    with (
        FaultyServer() as server,
        pytest.raises(ServerError, match="line 1: not a completion of this engine"),
    ):
        engine(server, journal=journal).complete(questions)


@pytest.mark.parametrize(
    "change", [{"max_new_tokens": 41}, {"temperature": 0.5}, {"instruction": "Reply."}, {"top_logprobs": 2}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_other_settings_are_other_completions(questions, tmp_path, change):
    journal = tmp_path / "journal.jsonl"
    with FaultyServer() as server:
        engine(server, journal=journal).complete(questions[:2])
        engine(server, journal=journal, **change).complete(questions[:2])
    assert server.asked.total() == 4


@pytest.mark.parametrize("concurrency", [1, 4])
def test_the_budget_is_never_passed_and_nothing_is_lost(questions, tmp_path, concurrency):
    price, journal = Price(1000.0, 1000.0), tmp_path / "journal.jsonl"  # a completion costs .05
    with FaultyServer() as server:
        budget = Budget(0.4)
        with pytest.raises(BudgetError, match=r"stopped before the budget of 0\.4 could be passed"):
            engine(
                server, journal=journal, budget=budget, price=price, concurrency=concurrency
            ).complete(questions)
        assert 0 < budget.spent <= 0.4 and budget.reserved == pytest.approx(0)
        assert budget.spent == pytest.approx(0.05 * server.paid.total())
        again = Budget(1.0)
        engine(server, journal=journal, budget=again, price=price).complete(questions)
        assert server.paid.total() == 12 and again.spent == pytest.approx(0.6), (
            "what the journal holds counts as spent"
        )


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """The waits of `Server` itself, which take no time here; those of the client are its own."""
    seconds = []
    monkeypatch.setattr(client, "_wait", lambda stop, wait: seconds.append(wait))
    return seconds


def test_a_short_retry_after_is_kept_to(questions):
    """By the client: one wait, one more request."""
    begun = time.monotonic()
    with FaultyServer(lambda question, nth: (429, 1) if nth == 1 else None) as server:
        engine(server, max_retries=1).complete(questions[:2])
    assert time.monotonic() - begun >= 1 and server.asked.total() == 4


@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_after_that_the_client_gives_up_on_is_waited_out(questions, waits, status, capsys):
    """The client waits two minutes at the most; half an hour is waited here, and shown once."""
    with FaultyServer(lambda question, nth: (status, 1800) if nth == 1 else None) as server:
        engine(server).complete(questions)
    assert waits == [1800.0] * 12 and max(server.asked.values()) == 2
    shown = capsys.readouterr().err
    assert f"{server.url} has a limit: waiting 30 min, until " in shown
    assert len(shown.splitlines()) <= 2, "told by every thread; twice if the minute changed"


def test_a_retry_after_may_be_a_date(questions, waits):
    date = formatdate(time.time() + 600, usegmt=True)
    with FaultyServer(lambda question, nth: (429, date) if nth == 1 else None) as server:
        engine(server).complete(questions[:1])
    assert waits == [pytest.approx(600, abs=5)]


def test_an_hourly_limit_without_a_word_of_its_length_is_survived(questions, waits, capsys):
    """A server that refuses all for an hour and does not say so: the waits grow."""
    with FaultyServer(lambda *_: 429 if sum(waits) < 3600 else None) as server:
        engine(server, max_retries=1, concurrency=1).complete(questions)
    assert waits[:4] == [60, 120, 240, 480] and 3600 <= sum(waits) < 7200
    assert "has a limit: waiting 60 s" in capsys.readouterr().err and server.paid.total() == 12


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ((429, 9000), "has a limit and asks to wait 150 min; patience is 120 min in all"),
        ("used up", r"refused the request \(HTTP 429\): .*no money left"),
    ],
)
def test_what_no_patience_helps_is_one_line(questions, waits, fault, says):
    with FaultyServer(lambda *_: fault) as server, pytest.raises(ServerError, match=says) as caught:
        engine(server).complete(questions[:1])
    assert "\n" not in str(caught.value) and waits == []


def test_a_failure_ends_the_waits_of_other_requests(questions, monkeypatch):
    faults = {questions[0].text: (429, 1800), questions[1].text: 400}
    begun = time.monotonic()
    with (
        FaultyServer(lambda question, nth: faults.get(question)) as server,
        pytest.raises(ServerError, match="HTTP 400"),
    ):
        engine(server, concurrency=2).complete(questions[:2])
    assert time.monotonic() - begun < 20


def test_what_the_journal_holds_is_booked_once(questions, tmp_path):
    budget = Budget(10.0)
    with FaultyServer() as server:
        asked = engine(
            server, journal=tmp_path / "j.jsonl", budget=budget, price=Price(1000.0, 1000.0)
        )
        for _ in range(3):
            asked.complete(questions)
    assert budget.spent == pytest.approx(0.05 * 12)


def test_many_threads_share_a_budget():
    """Reserved and settled at once by eight threads: nothing is lost, and the cap holds."""
    budget, refused = Budget(100.0), []

    def pay(_) -> None:
        try:
            budget.reserve(0.5)
            budget.settle(0.5, 0.25)
        except BudgetError:
            refused.append(True)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(pay, range(4000)))
    assert budget.reserved == pytest.approx(0) and budget.spent <= 100
    assert budget.spent == pytest.approx(0.25 * (4000 - len(refused)))


def test_plain_texts_are_questions(tmp_path):
    with FaultyServer() as server:
        ((found,),) = engine(server).complete(["2+2"])
    assert parser.parse(found.text).answer == "2+2"


KERNEL = """
from corea.cascade import Cascade
from corea.questions.base import Question
from corea.serving.client import Server
small, large = (Server(url, "tiny", name=name, concurrency=4) for name, url in {places})
questions = [Question(f"{{n}}+1", id=str(n)) for n in range(8)]
print([(a.source, a.answer) for a in Cascade(small, large, 0.8).answer(questions)])
"""


def test_the_cascade_runs_in_a_notebook():
    """In a real kernel, whose event loop is running: `asyncio.run` is refused there."""
    with FaultyServer() as small, FaultyServer() as large:
        places = [("small", small.url), ("large", large.url)]
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(KERNEL.format(places=places))],
            metadata={"kernelspec": {"name": "python3", "display_name": "", "language": "python"}},
        )
        NotebookClient(notebook, timeout=120).execute()
    (output,) = [o for o in notebook.cells[0].outputs if o.get("name") == "stdout"]
    assert output["text"].strip() == str([("llm", f"{n}+1") for n in range(8)])
    assert small.asked.total() == large.asked.total() == 8


def test_reasoning_that_a_server_sets_apart_is_put_back(questions):
    with FaultyServer(lambda *_: "apart") as apart, FaultyServer() as plain:
        assert engine(apart).complete(questions) == engine(plain).complete(questions)


def test_tokens_that_a_server_does_not_count_are_counted_and_said_once(questions, capsys):
    budget = Budget(10.0)
    with FaultyServer(lambda *_: "uncounted") as server:
        found = engine(server, budget=budget, price=Price(1000.0, 1000.0)).complete(questions)
        ((with_steps,),) = engine(server, top_logprobs=2).complete(questions[:1])
    assert capsys.readouterr().err.count("reports no usage: a token is counted for every byte") == 2
    assert all(c.completion_tokens == len(c.text.encode()) and c.prompt_tokens > len(q.text.encode())
               for q, (c,) in zip(questions, found, strict=True))  # fmt: skip
    assert budget.spent == pytest.approx(
        sum(c.prompt_tokens + c.completion_tokens for (c,) in found) / 1000
    )
    assert with_steps.completion_tokens == len(with_steps.logprobs)


def test_reasoning_that_the_limit_cut_off_stays_open(questions):
    """A closing tag that the model did not write would hide that it never came to an answer."""
    with FaultyServer(lambda *_: "unfinished") as server:
        ((found,),) = engine(server).complete(questions[:1])
    assert found.text == f"<think>{questions[0].text}" and found.finish == "length"


def test_failed_tries_cost_nothing(questions):
    budget = Budget(10.0)
    with FaultyServer(lambda question, nth: 500 if nth == 1 else None) as server:
        engine(server, budget=budget, price=Price(1000.0, 1000.0)).complete(questions)
    assert budget.spent == pytest.approx(0.05 * 12)


def test_logprobs_of_a_server_give_the_numerals_and_their_mass(questions):
    with FaultyServer() as server:
        ((found,),) = engine(server, top_logprobs=2).complete(questions[:1])
    assert found.numerals == pytest.approx(
        {"0.7": 0.8187 * 0.6065, "0.8": 0.8187 * 0.3012, "1": 0.1653}, abs=1e-3
    )
    assert 0.8 < sum(found.numerals.values()) < 1, "what top_logprobs cut off is missing"
    first, last = found.answer_span
    assert last - first == len(questions[0].text) and len(found.logprobs) > last


def test_the_cascade_runs_over_two_servers(questions):
    from corea.cascade import Cascade

    with FaultyServer() as small, FaultyServer() as large:
        kept = Cascade(engine(small), engine(large), 0.5).answer(questions)
        assert {answer.source for answer in kept} == {"slm"} and large.asked.total() == 0
        deferred = Cascade(engine(small), engine(large), 0.8).answer(questions)
        assert {answer.source for answer in deferred} == {"llm"} and large.asked.total() == 12


@pytest.mark.parametrize(
    "wrong",
    [
        {"concurrency": 0},
        {"max_retries": -1},
        {"timeout": 0},
        {"temperature": -1},
        {"max_new_tokens": 0},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        Server("http://127.0.0.1:1/v1", "tiny", **({"name": "tiny", "max_new_tokens": 4} | wrong))


@pytest.mark.parametrize("address", ["", None, "localhost:8001", "ftp://127.0.0.1/v1"])
def test_an_address_that_is_none_is_refused_at_once(address):
    with pytest.raises(ValueError, match="must begin with http:// or https://"):
        Server(address, "small")
