"""Raw HTTP against the running server: bad input is a 4xx that says why, and nothing leaks."""

import asyncio
import json
import random
import time
from html import escape
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfx.serve import replies

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HI = [{"role": "user", "content": "hi"}]


def send(server: Any, path: str, body: bytes) -> httpx.Response:
    return server.http.post(path, content=body, headers={"content-type": "application/json"})


def chat(**fields: Any) -> tuple[str, bytes]:
    return CHAT, json.dumps({"messages": HI, "max_tokens": 1} | fields).encode()


def text(**fields: Any) -> tuple[str, bytes]:
    return TEXT, json.dumps({"prompt": "hi", "max_tokens": 1} | fields).encode()


BAD: list[tuple[tuple[str, bytes], str | None, str]] = [
    ((TEXT, b""), None, "not JSON"),
    ((TEXT, b'{"prompt": "a",}'), None, "line 1 column 15"),
    ((TEXT, b"[" * 100_000), None, "depth limit"),
    ((TEXT, b'{"prompt":' + b"[" * 900 + b"]" * 900 + b"}"), "prompt", "it must be a string"),
    ((TEXT, b'{"prompt": "a", "temperature": NaN}'), None, "column 32"),
    ((TEXT, b'{"prompt": "a", "temperature": Infinity}'), None, "column 32"),
    ((TEXT, b'{"prompt": "a", "temperature": 1e999}'), None, "infinity"),
    ((TEXT, b'{"prompt": "\\ud800"}'), None, "surrogate"),
    ((TEXT, b'{"prompt": "\xff"}'), None, "UTF-8"),
    ((TEXT, b'{"prompt": "a", "seed": 1' + b"0" * 400 + b"}"), None, "not JSON"),
    (text(seed=2**64 - 1), "seed", "18446744073709551615"),
    (text(stop="x" * 500_000), "stop", "1 to 1024 characters"),
    (text(stop=["x"] * 17), "stop", "at most 16"),
    (text(n=10**9), "n", "n is 1000000000: it must be less than or equal to 128"),
    (text(max_tokens=10**12), "max_tokens", "1000000000000: the prompt has 1 tokens"),
    (text(max_tokens=0), "max_tokens", "max_tokens is 0: it must be greater than or equal to 1"),
    (text(max_tokens=-(10**30)), "max_tokens", "valid integer"),
    (text(logit_bias={str(token): 1 for token in range(50_000)}), "logit_bias", "at most 1024"),
    (text(logit_bias={"99999999": 1}), "logit_bias", "token id 99999999"),
    (text(top_k=-2), "top_k", "top_k is -2"),
    (text(prompt=[-1]), "prompt", "token id -1: the model's ids go from 0 to 49151"),
    (text(prompt=[49152]), "prompt", "token id 49152"),
    (text(prompt=""), "prompt", "empty"),
    (text(prompt=[[1], []]), "prompt", "empty"),
    (text(prompt=["a"] * 3000), "prompt", "at most 2048"),
    (text(prompt="a " * 1100), "prompt", "prompt has 1101 tokens: the model's context is 1024"),
    (text(prompt="a" * 900_000), "prompt", "the model's context is 1024 tokens, so at most 1023"),
    (text(prompt=[1] * 100_000), "prompt", "prompt has 100000 tokens"),
    (chat(messages=[]), "messages", "messages is []: it must have at least 1 item"),
    (chat(messages=[{"role": "user", "content": "a " * 1100}]), "messages", "context is 1024"),
    (chat(messages=[{"role": "user"}]), "messages.0.content", "content is None"),
    (chat(messages=[{"role": "user", "content": 5}]), "messages.0.content", "content is 5"),
    (chat(messages=[{"role": "user", "content": True}]), "messages.0.content", "is True"),
    (chat(messages=[{"role": "user", "content": {}}]), "messages.0.content", "content is {}"),
    (chat(messages=[{"role": "robot", "content": "x"}]), "messages.0.role", "role is 'robot'"),
    (chat(temperature="hot"), "temperature", "temperature is 'hot'"),
    (chat(max_tokens=True), "max_tokens", "max_tokens is True: it must be a valid integer"),
    (chat(stream="yes"), "stream", "stream is 'yes'"),
    (chat(tools=[{"type": "function"}]), "tools", "this server supports only"),
    (chat(chat_template_kwargs={"messages": 1}), "chat_template_kwargs.messages", "can't be set"),
    (("/tokenize", b"{}"), "prompt", "either prompt or messages"),
    (("/detokenize", b'{"tokens": [-1]}'), "tokens", "token id -1"),
    (("/detokenize", b'{"tokens": ["a"]}'), "tokens.0", "tokens.0 is 'a'"),
]


@pytest.mark.parametrize(("request_", "param", "message"), BAD)
def test_a_bad_body_is_a_400_that_names_field_value_and_limit(
    server: Any, request_: tuple[str, bytes], param: str | None, message: str
) -> None:
    answer = send(server, *request_)

    assert answer.status_code == 400
    error = replies.ErrorReply.model_validate_json(answer.content).error
    assert (error.type, error.param) == ("invalid_request_error", param)
    assert message in error.message
    assert len(error.message) < 500


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status", "message"),
    [
        ("GET", "/v2/chat", {}, b"", 404, "there is no /v2/chat here"),
        ("GET", "/%ed%a0%80", {}, b"", 404, "there is no"),
        ("GET", CHAT, {}, b"", 405, "/v1/chat/completions does not take GET"),
        ("DELETE", "/v1/models", {}, b"", 405, "does not take DELETE"),
        ("POST", TEXT, {}, b" " * (2 << 20), 413, "at most 1048576 are accepted"),
        ("POST", TEXT, {"content-encoding": "gzip"}, b"x", 415, "send the body uncompressed"),
        ("POST", TEXT, {"content-type": "text/plain"}, b"{}", 415, "content-type is text/plain"),
        ("POST", CHAT, {}, b'{"model": "gpt", "messages": [{"role": "user"}]}', 404, "served: ti"),
        ("GET", "/v1/models/gpt", {}, b"", 404, "model 'gpt' is not served here; served: tiny"),
    ],
)
def test_every_refusal_has_openais_form(
    server: Any,
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
    status: int,
    message: str,
) -> None:
    answer = server.http.request(method, path, headers=headers, content=body)

    assert answer.status_code == status
    assert message in replies.ErrorReply.model_validate_json(answer.content).error.message


def test_a_body_without_a_length_is_cut_off_at_the_limit(server: Any) -> None:
    pieces = (b" " * 65536 for _ in range(40))

    answer = server.http.post(TEXT, content=pieces)

    assert answer.status_code == 413


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    (
        *("model", "messages", "prompt", "n", "stop", "seed", "temperature", "top_p", "logprobs"),
        *("logit_bias", "stream_options", "min_tokens", "max_tokens", "best_of", "suffix"),
        *("stop_token_ids", "chat_template_kwargs", "request_id", "tools", "priority"),
    )
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(fields=st.dictionaries(FIELDS, JSON, min_size=1), path=st.sampled_from((CHAT, TEXT)))
def test_any_json_is_answered_and_never_with_a_5xx(
    server: Any, fields: dict[str, Any], path: str
) -> None:
    answer = server.http.post(path, json={"max_tokens": -1} | fields)

    assert 200 <= answer.status_code < 500


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=st.binary(max_size=64), path=st.sampled_from((CHAT, TEXT, "/tokenize")))
def test_any_bytes_are_a_400(server: Any, body: bytes, path: str) -> None:
    answer = send(server, path, body)

    assert answer.status_code == 400
    replies.ErrorReply.model_validate_json(answer.content)


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/health", replies.Status),
        ("/ping", replies.Status),
        ("/ready", replies.Status),
        ("/version", replies.Version),
        ("/v1/models", replies.ModelList),
        ("/v1/models/team/tiny", replies.ModelCard),
    ],
)
def test_documented_shapes_are_what_is_sent(server: Any, path: str, shape: Any) -> None:
    answer = server.get(path)

    assert answer.status_code == 200
    made = shape.model_validate_json(answer.content)
    assert made.model_dump(exclude_unset=True) == answer.json()


def test_documented_completions_are_what_is_sent(server: Any) -> None:
    shared = {"max_tokens": 2, "service_tier": "auto", "return_token_ids": True, "n": 2}
    as_chat = {"messages": HI, "logprobs": True, "top_logprobs": 1} | shared
    as_text = {"prompt": "hi", "logprobs": 1} | shared

    chat_answer, text_answer = server.post(CHAT, as_chat), server.post(TEXT, as_text)

    made = replies.ChatCompletion.model_validate_json(chat_answer.content)
    assert made.model_dump() == chat_answer.json()
    made_text = replies.Completion.model_validate_json(text_answer.content)
    assert made_text.model_dump() == text_answer.json()


def test_tokens_and_text_go_back_and_forth(server: Any) -> None:
    sentence = "Grüße, 世界 🎉!"

    there = server.post("/tokenize", {"prompt": sentence, "return_token_strs": True}).json()
    back = server.post("/detokenize", {"tokens": there["tokens"]}).json()

    assert replies.Tokenized.model_validate(there).count == len(there["tokens"])
    assert back["prompt"] == sentence


def test_a_conversation_is_tokenised_as_a_chat_would_be(server: Any) -> None:
    count = server.post("/tokenize", {"messages": HI}).json()["count"]

    usage = server.post(CHAT, {"messages": HI, "max_tokens": 1}).json()["usage"]

    assert count == usage["prompt_tokens"]


def test_request_ids_come_back_and_unsafe_ones_are_replaced(server: Any) -> None:
    def request_id(sent: str) -> str:
        answer = server.http.get("/version", headers={"X-Request-Id": sent})
        return answer.headers["x-request-id"]

    assert request_id("abc-1") == "abc-1"
    assert request_id("a b") not in ("a b", "")


def test_browsers_may_call_from_allowed_origins_only(server: Any) -> None:
    def allowed(origin: str) -> str | None:
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        answer = server.http.options(CHAT, headers=headers)
        return answer.headers.get("access-control-allow-origin")

    assert allowed("https://app.example") == "https://app.example"
    assert allowed("https://evil.example") is None


def test_streams_are_events_with_comments_while_nothing_comes(server: Any) -> None:
    document = {"prompt": "word " * 900, "max_tokens": 2, "stream": True}

    with httpx.stream("POST", server.url + TEXT, json=document, timeout=60) as answer:
        lines = [line for line in answer.iter_lines() if line]

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert lines[-1] == "data: [DONE]"
    assert ": keep-alive" in lines
    assert all(line == ": keep-alive" or line.startswith("data: ") for line in lines)


def test_head_is_answered_where_get_is(server: Any) -> None:
    answer = server.http.head("/health")

    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) > 0


def test_the_docs_page_needs_no_internet_and_lists_every_endpoint(server: Any) -> None:
    schema = server.get("/openapi.json").json()
    page = server.get("/docs").text

    assert "//" not in page.replace(server.url, "")
    assert "<script" not in page
    assert f"curl -s {server.url}/v1/chat/completions" in page
    for path, methods in schema["paths"].items():
        assert path in page
        for operation in methods.values():
            assert escape(operation["summary"]) in page
    for name in schema["components"]["schemas"]["ChatCompletionRequest"]["properties"]:
        assert f"<code>{name}</code>" in page


def test_the_schema_refers_to_nothing_that_is_missing(server: Any) -> None:
    text_ = server.get("/openapi.json").text
    schema = json.loads(text_)

    names = {part.split('"')[0] for part in text_.split("#/components/schemas/")[1:]}

    assert '"422"' not in text_
    assert {"ChatCompletionRequest", "CompletionRequest", "ErrorReply"} <= names
    assert names == set(schema["components"]["schemas"])


def test_metrics_follow_what_happens(server: Any) -> None:
    names = (
        *("request_success_total", "generation_tokens_total", "prompt_tokens_total"),
        *("time_to_first_token_seconds_count", "inter_token_latency_seconds_count"),
        *("e2e_request_latency_seconds_count", "iteration_tokens_total_count"),
        *("request_time_per_output_token_seconds_count", "request_queue_time_seconds_count"),
    )
    before = {name: server.metric(name) for name in names}

    server.post(TEXT, {"prompt": "One two", "max_tokens": 4, "ignore_eos": True, "n": 2})

    gained = {name: server.metric(name) - before[name] for name in names}
    assert gained["request_success_total"] == 2
    assert gained["generation_tokens_total"] == 8
    assert gained["prompt_tokens_total"] == 4
    assert gained["inter_token_latency_seconds_count"] == 6
    assert gained["iteration_tokens_total_count"] >= 4
    assert all(gained[name] == 2 for name in names if "request" in name or "first_token" in name)


def test_metrics_describe_the_cache_and_the_start(server: Any) -> None:
    exposition = server.get("/metrics").text

    assert 'num_gpu_blocks="64"' in exposition
    assert 'block_size="64"' in exposition
    assert 'hfx:start_phase_seconds{phase="total"}' in exposition
    assert 'model_name="tiny"' in exposition
    assert 'hfx:http_responses_total{code="200",method="GET",path="/ready"}' in exposition


def test_clients_that_leave_give_everything_back(server: Any) -> None:
    random.seed(3)

    async def visit(client: httpx.AsyncClient, number: int) -> None:
        document = {
            "prompt": f"Story {number}: " + "once " * random.randrange(200),
            "max_tokens": 200,
            "ignore_eos": True,
            "stream": number % 2 == 0,
            "n": 1 + number % 3,
        }
        try:
            async with asyncio.timeout(random.uniform(0.05, 1.5)):
                async with client.stream("POST", server.url + TEXT, json=document) as answer:
                    async for _ in answer.aiter_bytes():
                        pass
        except TimeoutError:
            pass

    async def visits() -> None:
        limits = httpx.Limits(max_connections=40)
        async with httpx.AsyncClient(timeout=60, limits=limits) as client:
            await asyncio.gather(*(visit(client, number) for number in range(24)))

    asyncio.run(visits())

    gauges = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
    end_s = time.monotonic() + 60
    while any(server.metric(gauge) for gauge in gauges) and time.monotonic() < end_s:
        time.sleep(0.1)
    assert {gauge: server.metric(gauge) for gauge in gauges} == dict.fromkeys(gauges, 0.0)
    assert server.get("/ready").status_code == 200
