"""Promises on the real server, asked for by the official client and by raw HTTP."""

import asyncio
import json
from typing import Any

import openai
import pytest

from hfx.engine.verdict import CAUSES
from hfx.serve import replies

MODEL = "tiny"
CAPITAL: list[Any] = [{"role": "user", "content": "What is the capital of Japan?"}]
EASY = {"ttft_ms": 250_000, "tpot_ms": 50_000.5, "deadline_ms": 800_000}
HARD = {"deadline_ms": 3000, "on_miss": "refuse"}
# Expected to be short, and then 900 tokens long: admitted, and never done in 3 s here.
ENDLESS: dict[str, Any] = {"slo": HARD, "expected_output_tokens": 1, "ignore_eos": True}
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def refusals(server: Any) -> int:
    """How many answers were a 429 so far."""
    lines = server.get("/metrics").text.splitlines()
    counts = [line for line in lines if line.startswith('hfx:http_responses_total{code="429"')]
    return int(sum(float(line.split()[-1]) for line in counts))


def ask(client: openai.OpenAI, extra: dict[str, Any], **options: Any) -> Any:
    options = {"messages": CAPITAL, "temperature": 0, "max_tokens": 6} | options
    return client.chat.completions.create(model=MODEL, extra_body=extra, **options)


def test_a_promise_is_told_beside_what_was_predicted_and_what_came(client: openai.OpenAI) -> None:
    answer = ask(client, {"slo": EASY})

    metrics = replies.Metrics.model_validate(answer.model_extra["metrics"])
    assert answer.service_tier == "default"
    assert metrics.slo is not None
    assert (metrics.slo.tier, metrics.slo.met, metrics.slo.met_cumulative) == (
        "default",
        True,
        True,
    )
    assert metrics.slo.missed_because is None
    for name, target in EASY.items():
        outcome = metrics.slo.targets[name]
        assert outcome.target == target
        assert outcome.actual is not None and 0 < outcome.actual < target
        assert outcome.predicted is not None
        assert 0 < outcome.predicted.mean <= outcome.predicted.upper


def test_the_parts_of_an_answers_time_add_up(client: openai.OpenAI) -> None:
    metrics = replies.Metrics.model_validate(ask(client, {"slo": {}}).model_extra["metrics"])

    assert metrics.slo is None  # nothing was promised, but asked about
    assert metrics.total_time_ms is not None and metrics.time_to_first_token_ms is not None
    assert metrics.generation_time_ms is not None and metrics.mean_itl_ms is not None
    assert list(metrics.time_ms) == list(CAUSES)
    assert sum(metrics.time_ms.values()) == pytest.approx(metrics.total_time_ms, abs=0.01)
    assert metrics.time_to_first_token_ms + metrics.generation_time_ms == pytest.approx(
        metrics.total_time_ms, abs=0.01
    )
    assert metrics.mean_itl_ms == pytest.approx(metrics.generation_time_ms / 5, abs=0.01)
    assert metrics.time_ms["prompt"] > 0 < metrics.time_ms["decode"]


@pytest.mark.parametrize("stream", [False, True])
def test_whoever_asks_for_nothing_gets_what_he_always_got(server: Any, stream: bool) -> None:
    body = {"messages": CAPITAL, "max_tokens": 2, "stream": stream}

    text = server.post(CHAT, body).text

    answers = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    for answer in answers or [json.loads(text)]:
        assert set(answer) - {"usage"} == {
            *("id", "object", "created", "model", "system_fingerprint", "choices"),
        }


def test_a_stream_names_the_tier_in_every_chunk_and_ends_with_the_metrics(
    client: openai.OpenAI,
) -> None:
    chunks = list(
        ask(
            client,
            {"service_tier": "easy"},
            stream=True,
            stream_options={"include_usage": True},
        )
    )

    assert {chunk.service_tier for chunk in chunks} == {"easy"}
    told = [chunk for chunk in chunks if "metrics" in (chunk.model_extra or {})]
    assert told == [chunks[-2]]  # the one with the finish reason; then comes usage
    assert told[0].choices[0].finish_reason == "length"
    assert told[0].model_extra["metrics"]["slo"]["targets"]["ttft_ms"]["target"] == 300_000


@pytest.mark.parametrize(
    ("tier", "given"), [("auto", "default"), ("default", "default"), ("flex", "flex")]
)
def test_openais_tiers_are_known(client: openai.OpenAI, tier: Any, given: str) -> None:
    assert ask(client, {}, service_tier=tier).service_tier == given


def test_an_unknown_tier_is_refused_with_those_that_there_are(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, {"service_tier": "gold"})

    assert error.value.param == "service_tier"
    assert "auto, default, flex, priority, easy, absurd" in str(error.value)


def test_headers_win_over_the_body_over_the_tier(client: openai.OpenAI) -> None:
    answer = ask(
        client,
        {"service_tier": "easy", "slo": {"ttft_ms": 1}, "tpot_slo_ms": 40_000},
        extra_headers={
            "x-slo-ttft-ms": "200000",
            "X-LLM-D-SLO-TTFT-MS": "100000",
            "x-llm-d-inference-ttl": "5m",
            "X-Vllm-Priority": "-5",
        },
    )

    targets = answer.model_extra["metrics"]["slo"]["targets"]
    assert {name: each["target"] for name, each in targets.items()} == {
        "ttft_ms": 100_000,
        "tpot_ms": 40_000,
        "deadline_ms": 300_000,
    }


@pytest.mark.parametrize("path", [CHAT, TEXT, "/v1/estimate"])
@pytest.mark.parametrize(
    ("headers", "slo", "param"),
    [
        ({}, {"ttft_ms": -1}, "slo.ttft_ms"),
        ({}, {"tpot_ms": 0}, "slo.tpot_ms"),
        ({}, {"deadline_ms": "soon"}, "slo.deadline_ms"),
        ({}, [], "slo"),
        ({"x-slo-ttft-ms": "0"}, None, "x-slo-ttft-ms"),
        ({"x-llm-d-slo-tpot-ms": "NaN"}, None, "x-llm-d-slo-tpot-ms"),
        ({"x-llm-d-inference-ttl": "-5s"}, None, "x-llm-d-inference-ttl"),
        ({"x-vllm-priority": "first"}, None, "x-vllm-priority"),
    ],
)
def test_a_promise_that_is_none_is_a_400_that_names_it(
    server: Any, path: str, headers: dict[str, str], slo: Any, param: str
) -> None:
    what = {"prompt": "hi"} if path == TEXT else {"messages": CAPITAL}

    answer = server.post(path, what | {"slo": slo}, headers=headers)

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_promise_beyond_the_device_is_refused_before_any_work(server: Any) -> None:
    tokens = server.metric("generation_tokens_total"), server.metric("prompt_tokens_total")
    answers = refusals(server)

    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=5) as client,
        pytest.raises(openai.RateLimitError) as error,
    ):
        ask(client, {"slo": {"ttft_ms": 0.01, "deadline_ms": 800_000, "on_miss": "refuse"}})

    refusal = replies.RefusalDetail.model_validate(error.value.body)
    assert (refusal.type, refusal.param) == ("slo_infeasible", "slo.ttft_ms")
    assert set(refusal.feasible) == {"ttft_ms", "deadline_ms"}
    assert refusal.feasible["ttft_ms"] > 0.01
    assert refusal.retry_after_ms is None  # it will never be possible here
    assert "retry-after" not in error.value.response.headers
    assert refusals(server) == answers + 1  # the client obeyed x-should-retry
    assert tokens == (
        server.metric("generation_tokens_total"),
        server.metric("prompt_tokens_total"),
    )


def test_what_is_called_feasible_is_then_promised(server: Any) -> None:
    ask_for = {"prompt": "One two three", "max_tokens": 2, "slo": {"ttft_ms": 0.01}}
    ask_for["slo"]["on_miss"] = "refuse"
    feasible_ms = server.post(TEXT, ask_for).json()["error"]["feasible"]["ttft_ms"]

    ask_for["slo"]["ttft_ms"] = feasible_ms * 1.5  # prices move with every step

    assert server.post(TEXT, ask_for).status_code == 200


def test_a_tier_that_may_be_refused_names_itself(server: Any) -> None:
    answer = server.post(CHAT, {"messages": CAPITAL, "service_tier": "absurd"})

    assert answer.status_code == 429
    assert answer.json()["error"]["param"] == "service_tier"


def test_a_promise_that_may_be_late_is_kept_as_well_as_can_be(client: openai.OpenAI) -> None:
    answer = ask(client, {"slo": {"ttft_ms": 0.01, "tpot_ms": 0.01}})

    slo = answer.model_extra["metrics"]["slo"]
    assert answer.usage.completion_tokens == 6
    assert (slo["met"], slo["met_cumulative"]) == (False, False)
    assert slo["targets"]["ttft_ms"]["missed_because"] == "prompt"
    assert slo["targets"]["tpot_ms"]["missed_because"] == "decode"
    assert slo["missed_because"] == "prompt"


def test_a_missed_hard_deadline_is_a_504_or_an_error_event(server: Any) -> None:
    async def both() -> tuple[Any, Any]:
        async with openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="none", max_retries=2
        ) as client:

            async def whole() -> None:
                await client.completions.create(
                    model=MODEL, prompt="Count:", max_tokens=900, extra_body=ENDLESS
                )

            async def streamed() -> list[Any]:
                chunks = []
                with pytest.raises(openai.APIError) as error:
                    async for chunk in await client.completions.create(
                        model=MODEL,
                        prompt="Count:",
                        max_tokens=900,
                        stream=True,
                        temperature=0,  # chance may begin with words that have no text
                        extra_body=ENDLESS,
                    ):
                        chunks.append(chunk)
                return [len(chunks), error.value.body]

            return tuple(await asyncio.gather(whole(), streamed(), return_exceptions=True))

    late, (chunks, event) = asyncio.run(both())

    assert isinstance(late, openai.InternalServerError)
    assert late.status_code == 504
    for error in (late.body, event):
        assert (error["type"], error["param"]) == ("deadline_exceeded", "slo.deadline_ms")
        metrics = replies.Metrics.model_validate(error["metrics"])
        assert metrics.slo is not None and not metrics.slo.met
        assert metrics.slo.targets["deadline_ms"].missed_because in CAUSES
    assert chunks > 1
    assert server.metric("slo_expired_total") >= 2


def test_an_error_event_ends_a_stream_with_the_done_mark(server: Any) -> None:
    headers = {"x-llm-d-inference-ttl": "1.5s"}
    body = {"prompt": "Count:", "max_tokens": 900, "stream": True, "ignore_eos": True}
    body |= {"expected_output_tokens": 1}

    text = server.post(TEXT, body, headers=headers).text

    *_, error, done, _ = text.split("\n\n")
    assert json.loads(error.removeprefix("data: "))["error"]["param"] == "x-llm-d-inference-ttl"
    assert done == "data: [DONE]"


@pytest.mark.parametrize(
    "body", [{"messages": CAPITAL}, {"prompt": "What is it?"}, {"prompt": [1, 2, 3]}]
)
def test_an_estimate_runs_nothing(server: Any, body: dict[str, Any]) -> None:
    before = server.metric("generation_tokens_total")

    answer = server.post("/v1/estimate", body | {"max_tokens": 50, "service_tier": "easy"})

    estimate = replies.Estimate.model_validate_json(answer.content)
    assert (estimate.model, estimate.service_tier) == ("tiny", "easy")
    assert (estimate.feasible, estimate.refusal) == (True, None)
    for time in (estimate.ttft_ms, estimate.tpot_ms, estimate.finish_ms):
        assert 0 < time.lower <= time.mean <= time.upper
    assert estimate.finish_ms.mean > estimate.ttft_ms.mean
    assert server.metric("generation_tokens_total") == before


def test_an_estimate_says_what_a_refusal_would(server: Any) -> None:
    body = {"prompt": "What is it?", "slo": {"tpot_ms": 0.01}}

    estimate = replies.Estimate.model_validate_json(server.post("/v1/estimate", body).content)

    assert not estimate.feasible
    assert estimate.refusal is not None
    assert (estimate.refusal.type, estimate.refusal.param) == ("slo_infeasible", "slo.tpot_ms")
    assert estimate.refusal.feasible["tpot_ms"] > 0.01


def test_a_longer_prompt_is_estimated_to_take_longer(server: Any) -> None:
    short, long = (
        server.post("/v1/estimate", {"prompt": [7] * tokens}).json()["ttft_ms"]["mean"]
        for tokens in (10, 1000)
    )

    assert long > short


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": "a", "n": 2}, "n"),
        ({}, "prompt"),
        ({"messages": []}, "messages"),
        ({"prompt": [1] * 2000}, "prompt"),
        ([], None),
    ],
)
def test_what_cannot_be_estimated_is_a_400(server: Any, body: Any, param: str | None) -> None:
    answer = server.post("/v1/estimate", body)

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_the_tiers_are_listed_with_what_this_device_can_do(server: Any) -> None:
    tiers = replies.TierList.model_validate_json(server.get("/v1/tiers").content).data

    assert [tier.name for tier in tiers] == ["default", "flex", "priority", "easy", "absurd"]
    by_name = {tier.name: tier for tier in tiers}
    assert (by_name["easy"].ttft_ms, by_name["easy"].feasible) == (300_000, True)
    assert not by_name["absurd"].feasible
    assert by_name["absurd"].reachable["tpot_ms"] > 0.01


def test_the_start_says_which_tiers_are_out_of_reach(server: Any) -> None:
    warnings = [line for line in server.text.splitlines() if line.startswith("warning: tier ")]

    assert any("tier absurd: ttft_s of 1e-05 s is beyond this device" in line for line in warnings)
    assert any("tier absurd" in line and "reachable together: ttft " in line for line in warnings)
    assert not any("tier easy" in line for line in warnings)


def test_each_choice_and_prompt_has_the_promise(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL,
        prompt=["The sun", "The moon"],
        n=2,
        max_tokens=3,
        echo=True,
        extra_body={"slo": EASY},
    )

    assert len(answer.choices) == 4
    assert answer.model_extra and answer.model_extra["metrics"]["slo"]["met"]
    assert answer.choices[0].text.startswith("The sun")


def test_streamed_choices_each_tell_their_metrics(client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model=MODEL, prompt="Once", n=3, max_tokens=3, stream=True, extra_body={"slo": EASY}
    )

    told = [chunk for chunk in stream if "metrics" in (chunk.model_extra or {})]

    assert sorted(chunk.choices[0].index for chunk in told) == [0, 1, 2]


def test_metrics_count_promises_by_tier(server: Any, client: openai.OpenAI) -> None:
    def counts() -> list[float]:
        text = server.get("/metrics").text
        tier = 'engine="0",model_name="tiny",{}tier="easy"'
        names = [
            "slo_requests_total{" + tier.format(""),
            "slo_met_total{" + tier.format('rule="mean",'),
            "slo_met_total{" + tier.format('rule="cumulative",'),
            "goodput_tokens_total{" + tier.format(""),
            "slo_slack_seconds_count{" + tier.format('target="ttft",'),
            "slo_prediction_error_count{" + tier.format('target="tpot",'),
            "slo_predictions_total{" + tier.format('target="deadline",'),
        ]
        found = (
            [line for line in text.splitlines() if line.startswith("hfx:" + name)] for name in names
        )
        return [float(lines[0].split()[-1]) if lines else 0.0 for lines in found]

    before = counts()
    ask(client, {"service_tier": "easy"})
    ask(client, {"service_tier": "easy"})

    assert [now - then for now, then in zip(counts(), before, strict=True)] == [
        *(2, 2, 2, 12),
        *(2, 2, 2),
    ]
    text = server.get("/metrics").text
    assert 'hfx:slo_attainment{engine="0",model_name="tiny",rule="mean",tier="easy"} 1.0' in text
    assert (
        'hfx:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 0.0'
        in text
    )


def test_labels_are_never_clients_words(server: Any) -> None:
    for word in ("nonsense", 'a"b\nc'):
        server.post(CHAT, {"messages": CAPITAL, "service_tier": word})
        server.post(CHAT, {"messages": CAPITAL}, headers={"x-slo-ttft-ms": "nonsense"})

    assert "nonsense" not in server.get("/metrics").text


def test_many_tiers_at_once_all_get_their_answers(server: Any) -> None:
    tiers = ["default", "flex", "priority", "easy", None] * 2

    async def answers() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            return await asyncio.gather(
                *(
                    client.completions.create(
                        model=MODEL,
                        prompt=[5 + index] * 20,
                        max_tokens=4,
                        extra_body={"service_tier": tier, "ignore_eos": True},
                    )
                    for index, tier in enumerate(tiers)
                )
            )

    for answer, tier in zip(asyncio.run(answers()), tiers, strict=True):
        assert answer.usage.completion_tokens == 4
        assert (answer.model_extra or {}).get("service_tier") == tier


def test_docs_describe_promises_headers_and_estimates(server: Any) -> None:
    page, schema = server.get("/docs").text, server.get("/openapi.json").json()

    for word in ("deadline_ms", "x-llm-d-inference-ttl", "/v1/estimate", "/v1/tiers", "on_miss"):
        assert word in page
    assert "504" in schema["paths"][CHAT]["post"]["responses"]
    reference = schema["paths"][TEXT]["post"]["responses"]["429"]["content"]["application/json"]
    assert reference["schema"]["$ref"].endswith("/RefusalReply")
