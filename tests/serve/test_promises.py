"""What a request is promised: aliases, precedence, and what is refused, without a server."""

import json
from typing import Any

import pytest

from hfx.config import Tier
from hfx.serve.body import parse
from hfx.serve.errors import ApiError
from hfx.serve.promises import Promise, promise
from hfx.serve.protocol import CompletionRequest
from hfx.serve.tiers import offered

CHAT = Tier(name="chat", ttft_s=0.5, tpot_s=0.05, weight=2.0, may_relegate=False)
BATCH = Tier(name="batch", deadline_s=60.0, may_refuse=True)
TIERS = offered((CHAT, BATCH))


def promised(headers: dict[str, str] | None = None, **fields: Any) -> Promise:
    body = parse(json.dumps({"prompt": "a"} | fields).encode(), CompletionRequest)
    return promise(body, headers or {}, TIERS)


def refused(headers: dict[str, str] | None = None, **fields: Any) -> ApiError:
    with pytest.raises(ApiError) as error:
        promised(headers, **fields)
    assert error.value.status == 400
    return error.value


def test_without_a_word_nothing_is_promised_or_spoken_of() -> None:
    made = promised()

    assert (made.tier, made.is_asked_for, dict(made.named)) == ("default", False, {})
    assert made.objective.ttft_s is made.objective.tpot_s is made.objective.deadline_s is None
    assert made.objective.on_miss == "relegate"


def test_a_null_slo_is_none_and_an_empty_one_asks_for_the_metrics() -> None:
    assert not promised(slo=None, ttft_slo_ms=None, service_tier=None).is_asked_for
    assert promised(slo={}).is_asked_for


@pytest.mark.parametrize(
    ("headers", "fields", "seconds", "source"),
    [
        ({}, {"service_tier": "chat"}, 0.5, "service_tier"),
        ({}, {"service_tier": "chat", "ttft_slo_ms": 400}, 0.4, "ttft_slo_ms"),
        ({}, {"slo": {"ttft_ms": 300.0}, "ttft_slo_ms": 400}, 0.3, "slo.ttft_ms"),
        ({"x-slo-ttft-ms": "200"}, {"slo": {"ttft_ms": 300}}, 0.2, "x-slo-ttft-ms"),
        (
            {"x-slo-ttft-ms": "200", "x-llm-d-slo-ttft-ms": " 100.5 "},
            {"service_tier": "chat"},
            0.1005,
            "x-llm-d-slo-ttft-ms",
        ),
    ],
)
def test_header_wins_over_body_over_tier(
    headers: dict[str, str], fields: dict[str, Any], seconds: float, source: str
) -> None:
    made = promised(headers, **fields)

    assert made.objective.ttft_s == pytest.approx(seconds)
    assert made.named["ttft"] == source
    assert made.is_asked_for


def test_targets_that_are_not_given_stay_the_tiers() -> None:
    made = promised({"x-slo-tpot-ms": "30"}, service_tier="chat", ttlt_slo_ms=9000)

    objective = made.objective
    assert (objective.ttft_s, objective.tpot_s, objective.deadline_s) == (0.5, 0.03, 9.0)
    assert (objective.tier, objective.weight, objective.may_relegate) == ("chat", 2.0, False)
    assert dict(made.named) == {
        "ttft": "service_tier",
        "tpot": "x-slo-tpot-ms",
        "deadline": "ttlt_slo_ms",
    }


@pytest.mark.parametrize(
    ("headers", "fields", "on_miss"),
    [
        ({}, {"service_tier": "chat"}, "relegate"),
        ({}, {"service_tier": "batch"}, "refuse"),
        ({}, {"service_tier": "batch", "slo": {"on_miss": "relegate"}}, "relegate"),
        ({}, {"slo": {"ttft_ms": 1, "on_miss": "refuse"}}, "refuse"),
        ({"x-llm-d-inference-ttl": "5s"}, {"slo": {"on_miss": "relegate"}}, "refuse"),
    ],
)
def test_a_miss_is_refused_where_the_tier_may_the_client_asks_or_its_time_to_live_ends(
    headers: dict[str, str], fields: dict[str, Any], on_miss: str
) -> None:
    assert promised(headers, **fields).objective.on_miss == on_miss


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("1m30s", 90.0),
        ("1.5h", 5400.0),
        ("+2s", 2.0),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("100us", 1e-4),
        ("100µs", 1e-4),
        ("100\u00c2\u00b5s", 1e-4),  # µ as UTF-8 that was read as Latin-1
        ("2000000ns", 0.002),
        ("2h45m10s500ms", 9910.5),
    ],
)
def test_the_time_to_live_is_a_go_duration(text: str, seconds: float) -> None:
    made = promised({"x-llm-d-inference-ttl": text}, slo={"deadline_ms": 1})

    assert made.objective.deadline_s == pytest.approx(seconds)
    assert made.named["deadline"] == "x-llm-d-inference-ttl"


@pytest.mark.parametrize(
    "text",
    ["0", "0s", "-1s", "", "5", "s", "1 s", "1d", "1e3s", "inf", "1m 30s", "٣s", "1_0s", "9" * 40],
)
def test_a_time_to_live_that_is_none_is_refused(text: str) -> None:
    error = refused({"x-llm-d-inference-ttl": text})

    assert error.param == "x-llm-d-inference-ttl"
    assert error.message.startswith("header x-llm-d-inference-ttl is ")


@pytest.mark.parametrize(
    "text", ["0", "-5", "nan", "NaN", "inf", "1e3", "1_000", "٣", "", "fast", "5ms", "9" * 40]
)
@pytest.mark.parametrize(
    "name", ["x-slo-ttft-ms", "x-slo-tpot-ms", "x-llm-d-slo-ttft-ms", "x-llm-d-slo-tpot-ms"]
)
def test_a_header_that_is_no_time_is_refused_by_its_name(name: str, text: str) -> None:
    assert refused({name: text}).param == name


def test_a_bad_header_is_refused_although_another_wins_over_it() -> None:
    error = refused({"x-llm-d-slo-ttft-ms": "100", "x-slo-ttft-ms": "soon"})

    assert error.param == "x-slo-ttft-ms"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"slo": {"ttft_ms": 0}}, "slo.ttft_ms"),
        ({"slo": {"tpot_ms": -1}}, "slo.tpot_ms"),
        ({"slo": {"deadline_ms": 5e-324}}, "slo.deadline_ms"),
        ({"slo": {"deadline_ms": 1e300}}, "slo.deadline_ms"),
        ({"slo": {"ttft_ms": "500"}}, "slo.ttft_ms"),
        ({"slo": {"ttft_ms": True}}, "slo.ttft_ms"),
        ({"slo": {"ttft_ms": [500]}}, "slo.ttft_ms"),
        ({"slo": {"ttft": 500}}, "slo.ttft"),
        ({"slo": {"on_miss": "explode"}}, "slo.on_miss"),
        ({"slo": []}, "slo"),
        ({"slo": "fast"}, "slo"),
        ({"slo": 5}, "slo"),
        ({"ttft_slo_ms": 0}, "ttft_slo_ms"),
        ({"tpot_slo_ms": -3}, "tpot_slo_ms"),
        ({"ttlt_slo_ms": "x"}, "ttlt_slo_ms"),
        ({"service_tier": "gold"}, "service_tier"),
        ({"service_tier": "😀" * 9999}, "service_tier"),
        ({"service_tier": ["chat"]}, "service_tier"),
        ({"expected_output_tokens": 0}, "expected_output_tokens"),
        ({"expected_output_tokens": 1.5}, "expected_output_tokens"),
        ({"priority": 2**40}, "priority"),
        ({"nvext": 3}, "nvext"),
    ],
)
def test_a_field_that_is_wrong_is_refused_by_its_name(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)

    assert error.param == param
    assert len(error.message) < 300


def test_an_unknown_tier_is_told_of_those_that_there_are() -> None:
    error = refused(service_tier="gold")

    assert error.message == (
        "service_tier is 'gold': it must be one of auto, default, flex, priority, chat, batch"
    )


@pytest.mark.parametrize(
    ("name", "tier"),
    [("auto", "default"), ("default", "default"), ("flex", "flex"), ("chat", "chat")],
)
def test_the_answer_names_the_tier_that_was_given(name: str, tier: str) -> None:
    assert promised(service_tier=name).tier == tier


def test_a_header_wins_over_the_bodys_priority() -> None:
    assert promised(priority=5).priority == 5
    assert promised({"x-vllm-priority": " -7 "}, priority=5).priority == -7


@pytest.mark.parametrize("text", ["", "high", "1.5", "1e3", str(2**31), str(-(2**31) - 1), "1_0"])
def test_a_priority_that_is_no_integer_is_refused(text: str) -> None:
    assert refused({"x-vllm-priority": text}).param == "x-vllm-priority"


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({}, None),
        ({"expected_output_tokens": 40}, 40),
        ({"nvext": {"agent_hints": {"osl": 50}}}, 50),
        ({"nvext": {"agent_hints": {"osl": 50}}, "expected_output_tokens": 40}, 40),
        ({"nvext": {"agent_hints": {"osl": -1}}}, None),  # a hint: what is none is no error
        ({"nvext": {"agent_hints": {"osl": True}}}, None),
        ({"nvext": {"agent_hints": 7}}, None),
        ({"nvext": {}}, None),
    ],
)
def test_the_length_of_the_output_may_be_hinted(fields: dict[str, Any], tokens: int | None) -> None:
    assert promised(**fields).expected_output_tokens == tokens
