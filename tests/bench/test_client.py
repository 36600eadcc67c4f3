import asyncio
import json

import pytest

from hfx.bench.client import Target, join_url, send
from hfx.bench.load import open_session, run_load
from hfx.bench.workload import Prompt

PROMPT = Prompt([1, 2, 3], 4)
DONE = b"data: [DONE]\n\n"


def event(body: object) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def token(text: str, finish_reason: str | None = None) -> bytes:
    return event({"choices": [{"index": 0, "text": text, "finish_reason": finish_reason}]})


def target(server, **options):
    return Target(base_url=server.base_url, model="scripted", **options)


def ask(server, prompt=PROMPT, **options):
    async def run():
        async with open_session() as session:
            return await send(session, target(server, **options), prompt)

    return asyncio.run(run())


def test_an_answer_is_timed_token_by_token_and_counted_by_the_server(scripted):
    scripted.gap_s = 0.03
    counts = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}})
    scripted.pieces = [token("Hel"), b": keep-alive\n\n", token("lo"), token("", "stop")]
    scripted.pieces += [counts, DONE]

    outcome = ask(scripted)

    assert outcome.success
    assert outcome.text == "Hello"
    assert (outcome.prompt_tokens, outcome.output_tokens) == (3, 5)
    assert len(outcome.itls_s) == 1
    assert outcome.itls_s[0] > 0.05  # two gaps: the comment between the tokens is no token
    assert outcome.latency_s > outcome.ttft_s + outcome.itls_s[0]


def test_a_token_without_text_is_a_token(scripted):
    scripted.pieces = [token("a"), token(""), token("b"), token("", "length"), DONE]

    assert len(ask(scripted).itls_s) == 2


def test_a_chat_starts_with_its_first_token_and_not_with_its_role(scripted):
    def delta(**fields):
        return event({"choices": [{"index": 0, "delta": fields, "finish_reason": None}]})

    scripted.gap_s = 0.05
    scripted.pieces = [delta(role="assistant", content=""), delta(content="Hi"), DONE]

    outcome = ask(scripted, Prompt("hello", 4), backend="openai-chat")

    assert outcome.success
    assert outcome.ttft_s > 0.04
    assert outcome.text == "Hi"
    assert scripted.bodies[0]["messages"] == [{"role": "user", "content": "hello"}]


def test_the_body_carries_the_prompt_the_length_and_what_was_added(scripted):
    scripted.pieces = [token("a", "stop"), DONE]

    ask(scripted, ignore_eos=True, extra_body={"top_k": 3}, headers={"X-Tier": "fast"})

    body = scripted.bodies[0]
    assert (body["prompt"], body["max_tokens"], body["top_k"]) == ([1, 2, 3], 4, 3)
    assert body["ignore_eos"] and body["stream"]
    assert body["stream_options"] == {"include_usage": True}
    assert scripted.headers[0]["X-Tier"] == "fast"


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        ([token("a")], "ended before a finish_reason"),
        ([], "ended before a finish_reason"),
        ([DONE], "without a token"),
        ([token("a"), event({"error": {"message": "out of blocks"}})], "event: out of blocks"),
        ([b"event: error\ndata: {}\n\n"], "error event"),
        ([token("a"), b"data: {not json\n\n", DONE], "malformed event: {not json"),
        ([b"data: [1, 2]\n\n"], "malformed event"),
        ([event({"choices": [{"text": 5}]})], "malformed event"),
        ([event({"choices": 5})], "malformed event"),
    ],
)
def test_a_stream_that_is_not_whole_is_a_failure_that_says_why(scripted, pieces, error):
    scripted.pieces = pieces

    outcome = ask(scripted)

    assert not outcome.success
    assert error in outcome.error


def test_a_cut_connection_is_a_failure(scripted):
    scripted.pieces, scripted.cuts_connection = [token("a")], True

    outcome = ask(scripted)

    assert not outcome.success
    assert "Error" in outcome.error or "Disconnected" in outcome.error


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (500, b"<h1>\n broken</h1>", "HTTP 500: <h1> broken</h1>"),
        (404, b'{"error": {"message": "no model x", "code": 404}}', "HTTP 404: no model x"),
        (422, b'{"detail": "bad field"}', "HTTP 422: bad field"),
        (429, b"", "HTTP 429: Too Many Requests"),
    ],
)
def test_a_refusal_keeps_its_status_and_message(scripted, status, body, error):
    scripted.status, scripted.pieces = status, [body] if body else []

    assert ask(scripted).error == error


def test_a_closed_loop_never_has_more_under_way_than_its_clients(scripted):
    scripted.pieces, scripted.gap_s = [token("a"), token("b", "stop"), DONE], 0.01

    async def run():
        async with open_session() as session:
            return await run_load(session, target(scripted), [PROMPT] * 12, max_concurrency=3)

    outcomes = asyncio.run(run()).outcomes

    assert len(outcomes) == 12 and all(outcome.success for outcome in outcomes)
    moments = [outcome.start_s for outcome in outcomes]
    assert max(sum(o.start_s <= t < o.end_s for o in outcomes) for t in moments) == 3


def test_an_open_loop_sends_each_request_when_it_is_due(scripted):
    scripted.pieces = [token("a", "stop"), DONE]
    due_s = [0.0, 0.1, 0.15]

    async def run():
        async with open_session() as session:
            return await run_load(session, target(scripted), [PROMPT] * 3, arrivals_s=due_s)

    outcomes = asyncio.run(run()).outcomes

    assert [o.scheduled_s - outcomes[0].scheduled_s for o in outcomes] == pytest.approx(due_s)
    assert all(outcome.start_s >= outcome.scheduled_s for outcome in outcomes)


def test_a_base_url_may_end_with_v1():
    assert join_url("http://a/v1/", "/v1/models") == "http://a/v1/models"
    assert join_url("http://a", "/v1/models") == "http://a/v1/models"
    assert join_url("http://a/v1", "/tokenize") == "http://a/v1/tokenize"
