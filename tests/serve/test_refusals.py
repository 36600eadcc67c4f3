"""Refusals, relegation and expiry over an engine whose steps and whose admission a test decides."""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any

import pytest

from hfx.config import SchedulerConfig
from hfx.cost import Estimate
from hfx.request import Refused
from hfx.scheduler.admission import Outlook

Play = Callable[..., None]
Stage = Any
REFUSE = {"ttft_ms": 100, "tpot_ms": 7, "on_miss": "refuse"}


class Decides:
    """Stands for admission."""

    def __init__(self, *answers: Refused | None) -> None:
        self.answers = list(answers)

    def answer(self, *_: Any) -> Refused | None:
        return self.answers.pop(0)

    def outlook(self, *_: Any) -> Outlook:
        return Outlook(Estimate(1.0, 4.0), Estimate(0.0, 0.0), Estimate(2.0, 3.0))


def busy(retry_s: float = 2.25, **feasible: float) -> Refused:
    return Refused("the promises already given take the time", retry_s, feasible)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("feasible", "param"),
    [
        ({"ttft_s": 0.3, "tpot_s": 0.007}, "slo.ttft_ms"),
        ({"ttft_s": 0.1, "tpot_s": 0.0071}, "slo.tpot_ms"),
        ({"ttft_s": 0.1, "tpot_s": 0.007}, "slo.ttft_ms"),  # each alone is possible: say the first
    ],
)
def test_a_promise_for_which_there_is_no_time_is_a_429_with_what_there_is_and_when(
    play: Play, stream: bool, feasible: dict[str, float], param: str
) -> None:
    async def scene(stage: Stage) -> None:
        call = stage.complete(slo=REFUSE, stream=stream)
        error = (await call.answer())["error"]

        assert call.status == 429
        assert call.headers["retry-after"] == "3"
        assert "x-should-retry" not in call.headers
        assert (error["type"], error["code"], error["param"]) == (
            "slo_infeasible",
            "slo_infeasible",
            param,
        )
        assert error["feasible"] == {
            "ttft_ms": feasible["ttft_s"] * 1000,
            "tpot_ms": pytest.approx(feasible["tpot_s"] * 1000),
        }
        assert error["retry_after_ms"] == 2250
        assert stage.engine.stats().steps == 0
        for line in (
            b'refusals_total{engine="0",model_name="letters",reason="slo_infeasible",'
            b'tier="default"} 1.0',
            b'slo_requests_total{engine="0",model_name="letters",tier="default"} 1.0',
            b'admission_rejections_total{reason="slo_infeasible"} 1.0',
        ):
            assert line in stage.exposition

    play(scene, admission=Decides(busy(**feasible)))


def test_what_is_never_reachable_is_left_out(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        call = stage.complete(slo=REFUSE)
        error = (await call.answer())["error"]

        assert error["feasible"] == {"tpot_ms": 9.0}
        assert (call.headers["x-should-retry"], error["retry_after_ms"]) == ("false", None)
        assert "retry-after" not in call.headers

    play(scene, admission=Decides(busy(inf, ttft_s=inf, tpot_s=0.009)))


def test_one_choice_that_is_refused_refuses_all_of_them(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        call = stage.complete(slo=REFUSE, n=3)
        assert (await call.answer())["error"]["type"] == "slo_infeasible"
        assert stage.engine.stats().steps == 0
        await stage.idle()

    play(scene, admission=Decides(None, None, busy(ttft_s=1.0)))


def test_a_client_that_leaves_before_the_answer_leaves_nothing_behind(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        first = stage.complete(max_tokens=60)
        while not stage.engine.stats().running:
            await asyncio.sleep(0.001)
        call = stage.complete(slo=REFUSE)
        await asyncio.sleep(0.01)

        call.leave()
        await call.task
        first.leave()
        await first.task

        await stage.idle()
        assert stage.site.lifecycle.active == 0

    play(scene, admission=Decides(None))


def test_the_status_of_a_stream_waits_for_the_engines_answer(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        stage.complete(max_tokens=60)
        while not stage.engine.stats().running:
            await asyncio.sleep(0.001)
        call = stage.complete(slo=REFUSE, stream=True)
        await asyncio.sleep(0.05)
        assert call.status == 0  # the step that is running is not over

        stage.executor.release()
        assert (await call.answer())["error"]["type"] == "slo_infeasible"
        assert call.status == 429

    play(scene, admission=Decides(busy()))


def test_a_full_queue_is_an_overload_whatever_was_promised(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        calls = [stage.complete(max_tokens=60) for _ in range(2)]
        await asyncio.sleep(0.05)
        stage.engine._engine._room.wait_s = 6.2
        for fields in ({}, {"slo": REFUSE}, {"service_tier": "chat"}):
            call = stage.complete(**fields)
            error = (await call.answer())["error"]
            assert (call.status, call.headers["retry-after"]) == (429, "7")
            assert (error["type"], error["code"]) == ("overloaded", "queue_full")
            assert error["retry_after_ms"] == 6200
        for tier, count in (("default", 2), ("chat", 1)):
            assert (
                f'hfx:refusals_total{{engine="0",model_name="letters",reason="overloaded",'
                f'tier="{tier}"}} {count}.0'
            ).encode() in stage.exposition
        for call in calls:
            call.leave()

    limits = SchedulerConfig(max_num_seqs=1, max_num_queued_reqs=1)
    play(scene, limits=limits, admission=Decides())


@pytest.mark.parametrize("n", [1, 2])
def test_a_deadline_that_passes_in_a_stream_ends_it_with_an_error_event(play: Play, n: int) -> None:
    async def scene(stage: Stage) -> None:
        slo = {"deadline_ms": 300, "on_miss": "refuse"}
        call = stage.complete(slo=slo, stream=True, max_tokens=50, n=n)
        stage.executor.release()
        await call.until(b'"d"')
        await asyncio.sleep(0.31)
        stage.executor.release(1)
        await call.until(b"[DONE]")

        *_, event = call.events
        assert event["error"]["type"] == "deadline_exceeded"
        assert event["error"]["metrics"]["slo"]["targets"]["deadline_ms"]["met"] is False
        await stage.idle()

    play(scene, admission=Decides(*[None] * n))


def test_a_deadline_that_passes_in_the_queue_is_a_504_that_computed_nothing(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        first = stage.complete(max_tokens=40)
        while not stage.engine.stats().running:
            await asyncio.sleep(0.001)
        late = stage.complete(headers={"x-llm-d-inference-ttl": "20ms"})
        stage.executor.release()
        await asyncio.sleep(0.1)
        stage.executor.release(39)

        error = (await late.answer())["error"]

        assert late.status == 504
        assert (error["type"], error["param"]) == ("deadline_exceeded", "x-llm-d-inference-ttl")
        assert error["metrics"]["slo"]["missed_because"] == "queue"
        assert (await first.answer())["usage"]["completion_tokens"] == 40
        assert b'hfx:slo_expired_total{engine="0",model_name="letters",tier="default"} 1.0' in (
            stage.exposition
        )
        missed = b'hfx:slo_missed_total{cause="queue",engine="0",model_name="letters",'
        assert missed + b'target="deadline",tier="default"} 1.0' in stage.exposition

    play(scene, limits=SchedulerConfig(max_num_seqs=1), admission=Decides(None))


def test_a_soft_deadline_that_passes_is_told_and_nothing_else(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        call = stage.complete(slo={"deadline_ms": 0.001})
        stage.executor.release(3)
        answer = await call.answer()

        assert call.status == 200
        assert answer["metrics"]["slo"]["met"] is False

    play(scene, admission=Decides())


def test_of_several_choices_the_metrics_are_of_one_that_missed(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        call = stage.complete(slo={"ttft_ms": 1e6, "tpot_ms": 50}, n=2, max_tokens=2)
        stage.executor.release(1)  # both begin, or the second with the next step
        await asyncio.sleep(0.2)
        stage.executor.release(10)
        answer = await call.answer()

        slo = answer["metrics"]["slo"]
        assert slo["met"] is slo["targets"]["tpot_ms"]["met"] is False
        assert answer["metrics"]["predicted"]["ttft_ms"] == {"mean": 1000.0, "upper": 4000.0}

    play(scene, admission=Decides())


def test_metrics_can_be_asked_for_everywhere(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        call = stage.complete()
        stage.executor.release(3)
        answer = await call.answer()

        assert answer["metrics"]["slo"] is None
        assert answer["metrics"]["predicted"]["deadline_ms"] == {"mean": 2000.0, "upper": 3000.0}
        assert "service_tier" not in answer

    play(scene, per_request_metrics=True, admission=Decides())


def test_an_estimate_has_an_interval_around_its_mean(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        call = stage.estimate(service_tier="chat")
        answer = await call.answer()

        assert call.status == 200
        assert answer["ttft_ms"] == {"lower": 250.0, "mean": 1000.0, "upper": 4000.0}
        assert answer["tpot_ms"] == {"lower": 0.0, "mean": 0.0, "upper": 0.0}
        assert (answer["feasible"], answer["refusal"]["param"]) == (False, "service_tier")
        assert stage.engine.stats().steps == 0

    play(scene, admission=Decides(busy(ttft_s=70.0)))


def test_without_prices_there_is_no_estimate_and_no_refusal(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        call = stage.estimate()
        error = (await call.answer())["error"]
        assert (call.status, error["code"]) == (501, "no_cost_model")

        call = stage.complete(slo=REFUSE)
        stage.executor.release(3)
        answer = await call.answer()
        assert call.status == 200
        assert answer["metrics"]["predicted"] == {
            "ttft_ms": None,
            "tpot_ms": None,
            "deadline_ms": None,
        }
        tiers = await stage.get("/v1/tiers").answer()
        assert {tier["feasible"] for tier in tiers["data"]} == {None}

    play(scene)


def test_estimates_and_tiers_wait_for_the_model(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        stage.site.model, stage.site.lifecycle.state = None, "loading"
        for call in (stage.estimate(), stage.get("/v1/tiers")):
            assert (await call.answer())["error"]["code"] == "loading"
            assert call.status == 503

    play(scene)
