import json

import pytest

from hfx.bench.metrics import client_lag, peaks, saturation, summarize
from hfx.bench.outcome import Outcome


def answer(*, start=0.0, ttft=0.5, itls=(0.1, 0.1, 0.2), tokens=4, prompt=10, scheduled=None):
    latency = ttft + sum(itls)
    return Outcome(
        success=True,
        start_s=start,
        end_s=start + latency,
        scheduled_s=start if scheduled is None else scheduled,
        ttft_s=ttft,
        latency_s=latency,
        itls_s=tuple(itls),
        prompt_tokens=prompt,
        output_tokens=tokens,
    )


def failure(*, start=0.0, end=0.1):
    return Outcome(
        success=False, start_s=start, end_s=end, scheduled_s=start, error="HTTP 500: broken"
    )


def test_two_answers_give_the_figures_that_a_hand_does():
    outcomes = [
        answer(ttft=0.5, itls=(0.1, 0.1, 0.2), tokens=4, prompt=10),  # TPOT 0.4 / 3
        answer(ttft=1.5, itls=(0.3,), tokens=2, prompt=30),  # TPOT 0.3
    ]

    result = summarize(outcomes, 2.0, percentiles=(50.0, 99.9))

    assert (result["completed"], result["failed"]) == (2, 0)
    assert (result["total_input_tokens"], result["total_output_tokens"]) == (40, 6)
    assert result["request_throughput"] == pytest.approx(1.0)
    assert result["output_throughput"] == pytest.approx(3.0)
    assert result["total_token_throughput"] == pytest.approx(23.0)
    assert result["mean_ttft_ms"] == pytest.approx(1000)
    assert result["std_ttft_ms"] == pytest.approx(500)
    assert result["p50_ttft_ms"] == result["median_ttft_ms"] == pytest.approx(1000)
    assert result["p99.9_ttft_ms"] == pytest.approx(1499)
    assert result["mean_tpot_ms"] == pytest.approx((400 / 3 + 300) / 2)
    assert result["median_itl_ms"] == pytest.approx(150)
    assert result["mean_e2el_ms"] == pytest.approx((900 + 1800) / 2)


def test_a_one_token_reply_is_left_out_of_the_mean_tpot():
    outcomes = [answer(itls=(), tokens=1), answer(itls=(0.4,), tokens=3)]

    assert summarize(outcomes, 1.0)["mean_tpot_ms"] == pytest.approx(200)


def test_failures_are_counted_and_their_errors_are_kept_in_order():
    result = summarize([answer(), failure(), answer()], 1.0)

    assert (result["completed"], result["failed"]) == (2, 1)
    assert result["errors"] == ["", "HTTP 500: broken", ""]
    assert result["output_lens"] == [4, 0, 4]


def test_without_usage_chunks_stand_in_for_output_and_the_aim_for_input():
    outcomes = [answer(tokens=None, prompt=None)]

    result = summarize(outcomes, 1.0, aimed_tokens=[7])

    assert (result["total_input_tokens"], result["total_output_tokens"]) == (7, 4)


def test_a_run_without_a_single_answer_still_has_every_key_and_is_json():
    result = summarize([failure()], 1.0)

    assert result["mean_ttft_ms"] == result["output_throughput"] == 0
    assert json.loads(json.dumps(result))["failed"] == 1


def test_peaks_count_tokens_and_requests_of_the_busiest_second():
    outcomes = [
        answer(start=0.0, ttft=0.5, itls=(0.1, 0.1)),  # tokens at 0.5 0.6 0.7
        answer(start=0.5, ttft=0.4, itls=(0.3, 0.3)),  # tokens at 0.9 1.2 1.5
        answer(start=2.0, ttft=0.1, itls=()),
    ]

    assert peaks(outcomes) == {"max_output_tokens_per_s": 4.0, "max_concurrent_requests": 2}


def test_a_server_that_ends_requests_as_fast_as_they_come_is_not_saturated():
    outcomes = [answer(start=i, ttft=0.5, itls=(0.1,)) for i in range(100)]

    assert saturation(outcomes) == {"saturated": False, "saturation_reason": ""}


def test_a_server_at_half_the_asked_rate_is_saturated():
    outcomes = [answer(start=i, ttft=1.0 + i, itls=(0.1,)) for i in range(100)]

    found = saturation(outcomes)

    assert found["saturated"]
    assert "24 requests ended while 49 arrived" in found["saturation_reason"]


def test_requests_that_start_late_mark_the_run_as_well():
    outcomes = [answer(start=i + 0.3, scheduled=i, ttft=0.5, itls=()) for i in range(20)]

    assert "started 300 ms late" in saturation(outcomes)["saturation_reason"]


def test_the_clients_own_lateness_is_told_for_sending_and_for_its_loop():
    outcomes = [answer(start=0.03, scheduled=0.0), answer(start=1.0)]

    lag = client_lag(outcomes, [0.001, 0.003])

    assert lag["client_send_lag_p50_ms"] == pytest.approx(15)
    assert lag["client_send_lag_p99_ms"] == pytest.approx(29.7)
    assert lag["client_loop_lag_p50_ms"] == pytest.approx(2)
