import pytest

from hfx.bench.attainment import NO_TARGETS, Share, Targets, attainment, by_tier
from hfx.bench.outcome import Outcome, token_times_s


def answer(*, ttft=0.5, itls=(0.1, 0.1, 0.2), tokens=4):
    latency = ttft + sum(itls)
    return Outcome(
        success=True,
        start_s=0.0,
        end_s=latency,
        scheduled_s=0.0,
        status=200,
        ttft_s=ttft,
        latency_s=latency,
        itls_s=tuple(itls),
        output_tokens=tokens,
    )


def failure(status=None):
    return Outcome(
        success=False, start_s=0.0, end_s=0.1, scheduled_s=0.0, error="no", status=status
    )


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [(0, 0, 0.0, 1.0), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 100, 0.7222, 0.8749)],
)
def test_the_interval_is_wilsons(hits, total, low, high):
    assert Share(hits, total).interval == pytest.approx((low, high), abs=1e-4)


def test_a_higher_confidence_is_a_wider_interval():
    low, high = Share(81, 100).interval
    lower, higher = Share(81, 100).interval_at(2.5758)

    assert (lower, higher) == pytest.approx((0.6910, 0.8904), abs=1e-4)
    assert lower < low < high < higher


def test_every_request_counts_and_a_failure_missed():
    outcomes = [answer(), failure(), answer(), failure(429)]
    targets = [Targets.of_ms({"ttft": 500.0, "e2el": 10000.0})] * 4

    result = attainment(outcomes, targets, 2.0)

    assert result["request_goodput"] == 1.0
    assert result["slo_attainment"] == 0.5
    assert result["slo_attainment_by_metric"] == {"ttft": 0.5, "e2el": 0.5}
    assert (result["refused"], result["refusal_rate"]) == (1, 0.25)


def test_a_promise_is_kept_only_when_every_target_is():
    outcomes = [answer(ttft=0.1, itls=(1.0,), tokens=2), answer(ttft=1.0, itls=(0.1,), tokens=2)]
    targets = [Targets(ttft_s=0.5, tpot_s=0.5)] * 2

    result = attainment(outcomes, targets, 1.0)

    assert result["slo_attainment"] == 0
    assert result["slo_attainment_by_metric"] == {"ttft": 0.5, "tpot": 0.5}


def test_a_one_token_reply_keeps_any_tpot():
    assert Targets(tpot_s=0.001).are_kept(answer(itls=(), tokens=1))


def test_the_mean_forgives_a_pause_that_the_cumulative_rule_does_not():
    targets = Targets(ttft_s=0.5, tpot_s=0.2)
    late_in_the_middle = answer(ttft=0.5, itls=(0.3, 0.1, 0.1))

    assert targets.are_kept(late_in_the_middle)
    assert not targets.are_kept_by_every_token(late_in_the_middle)


def test_an_early_first_token_pays_for_a_later_pause_by_the_cumulative_rule():
    targets = Targets(ttft_s=0.5, tpot_s=0.2)

    assert targets.are_kept_by_every_token(answer(ttft=0.2, itls=(0.5, 0.1, 0.1)))
    assert not targets.are_kept_by_every_token(answer(ttft=0.2, itls=(0.6, 0.1, 0.1)))


def test_without_a_ttft_target_tokens_are_due_from_the_first_one():
    assert Targets(tpot_s=0.2).are_kept_by_every_token(answer(ttft=9.0, itls=(0.1, 0.2)))


def test_tokens_that_share_a_chunk_are_there_when_it_is():
    outcome = answer(ttft=1.0, itls=(1.0,), tokens=5)

    assert token_times_s(outcome) == [1.0, 1.0, 2.0, 2.0, 2.0]


def test_no_promise_is_kept_by_any_answer_and_by_no_failure():
    assert NO_TARGETS.are_kept(answer()) and NO_TARGETS.are_kept_by_every_token(answer())
    assert not NO_TARGETS.are_kept(failure())


def test_each_tier_is_judged_by_its_own_targets():
    outcomes = [answer(ttft=0.5), answer(ttft=0.5), failure(429)]
    targets = [Targets(ttft_s=0.4), Targets(ttft_s=0.6), Targets(ttft_s=0.4)]

    found = by_tier(outcomes, targets, ["fast", "slow", "fast"], 1.0)

    assert list(found) == ["fast", "slow"]
    assert (found["fast"]["requests"], found["fast"]["slo_attainment"]) == (2, 0.0)
    assert (found["fast"]["refusal_rate"], found["slow"]["slo_attainment"]) == (0.5, 1.0)
    assert found["slow"]["p50_ttft_ms"] == pytest.approx(500)


@pytest.mark.parametrize("name", ["ttft_s", "tpot_s", "e2el_s"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_target_must_be_above_0(name, value):
    with pytest.raises(ValueError, match=name):
        Targets(**{name: value})


def test_targets_are_sent_in_the_words_of_the_body():
    targets = Targets.of_ms({"ttft": 200.0, "tpot": 50.0, "e2el": 2000.0})

    assert targets.slo == {"ttft_ms": 200.0, "tpot_ms": 50.0, "deadline_ms": 2000.0}
