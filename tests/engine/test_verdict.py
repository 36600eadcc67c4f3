"""Whether a promise was kept, by both rules, and what is to blame where it was not."""

from typing import Any

import pytest

from hfx.engine import Delta, RequestTimes
from hfx.engine.account import Account, Spent
from hfx.engine.verdict import Verdict, verdict
from hfx.request import FinishReason, Objective


def ended(
    objective: Objective,
    *,
    ttft_s: float | None = 1.0,
    gaps_s: float = 0.5,
    tokens: int = 5,
    reason: FinishReason = FinishReason.LENGTH,
    late_s: float | None = None,
    first: dict[str, float] | None = None,
    later: dict[str, float] | None = None,
) -> Delta:
    """The end of a request that came at 10 s, with its time to first token and between tokens."""
    first_s = None if ttft_s is None else 10.0 + ttft_s
    last_s = None if first_s is None else first_s + gaps_s * (tokens - 1)
    account = Account(objective, late_s=late_s)
    for part, causes in ((account.first, first), (account.later, later)):
        for cause, seconds in (causes or {}).items():
            setattr(part, f"{cause}_s", seconds)
    return Delta(
        *("r", (), "", None, reason, None, 3, tokens if ttft_s else 0, 0),
        RequestTimes(10.0, 10.5, first_s, last_s),
        account=account,
    )


def judged(objective: Objective, **options: Any) -> Verdict:
    result = verdict(ended(objective, **options))
    assert result is not None
    return result


def test_nothing_promised_is_nothing_judged() -> None:
    assert verdict(ended(Objective())) is None


def test_of_an_aborted_request_nobody_knows() -> None:
    assert verdict(ended(Objective(ttft_s=0.1), reason=FinishReason.ABORT)) is None


@pytest.mark.parametrize(
    ("objective", "is_met"),
    [
        (Objective(ttft_s=1.0), True),
        (Objective(ttft_s=0.9), False),
        (Objective(tpot_s=0.5), True),
        (Objective(tpot_s=0.4), False),
        (Objective(deadline_s=3.0), True),
        (Objective(deadline_s=2.9), False),
        (Objective(ttft_s=1.0, tpot_s=0.5, deadline_s=2.9), False),
        (Objective(ttft_s=1.0, tpot_s=0.5, deadline_s=3.0), True),
    ],
)
def test_a_promise_is_kept_if_each_target_is(objective: Objective, is_met: bool) -> None:
    assert judged(objective).is_met is is_met


def test_the_two_rules_differ_where_a_stall_is_made_up_for_and_where_a_lead_is_spent() -> None:
    promise = Objective(ttft_s=2.0, tpot_s=0.5)

    stalled = judged(promise, gaps_s=0.5, late_s=0.7, later={"interference": 1.0, "kv": 0.2})
    ahead = judged(promise, gaps_s=0.6, late_s=-0.1)

    assert (stalled.is_met, stalled.is_met_cumulatively) == (True, False)
    assert (stalled.cause, stalled.targets["tpot"].cause) == ("interference", None)
    assert (ahead.is_met, ahead.is_met_cumulatively) == (False, True)


def test_one_token_has_no_gap_to_be_late() -> None:
    assert judged(Objective(tpot_s=0.01), tokens=1).is_met


@pytest.mark.parametrize("reason", [FinishReason.ERROR, FinishReason.EXPIRED])
def test_what_failed_or_expired_has_kept_its_first_token_but_not_its_promise(
    reason: FinishReason,
) -> None:
    verdict = judged(Objective(ttft_s=1.0, tpot_s=0.5), reason=reason)

    assert verdict.targets["ttft"].is_met
    assert not verdict.is_met and not verdict.is_met_cumulatively


def test_what_expired_has_missed_its_deadline_whenever_its_last_token_came() -> None:
    verdict = judged(Objective(deadline_s=3.5), reason=FinishReason.EXPIRED)

    assert not verdict.targets["deadline"].is_met


def test_what_expired_before_its_first_token_has_missed_everything() -> None:
    promise = Objective(ttft_s=1.0, tpot_s=0.5, deadline_s=2.0)
    verdict = judged(promise, ttft_s=None, reason=FinishReason.EXPIRED, first={"queue": 2.0})

    assert [target.is_met for target in verdict.targets.values()] == [False] * 3
    assert [target.cause for target in verdict.targets.values()] == ["queue"] * 3
    assert verdict.targets["ttft"].slack_s is None


@pytest.mark.parametrize(
    ("first", "cause"),
    [
        ({"prompt": 0.6, "queue": 0.3, "host": 0.1}, "queue"),  # alone it would have been in time
        ({"prompt": 0.95, "queue": 0.05}, "prompt"),  # alone it would not
        ({"prompt": 0.1, "interference": 0.5, "kv": 0.4}, "interference"),
        ({"prompt": 0.1, "preemption": 0.2, "kv": 0.7}, "kv"),
        ({"prompt": 0.1, "preemption": 0.9}, "preemption"),
        ({"prompt": 0.1, "host": 0.9}, "host"),
        ({}, "prompt"),
    ],
)
def test_a_late_first_token_is_blamed_on_what_would_have_saved_it(
    first: dict[str, float], cause: str
) -> None:
    verdict = judged(Objective(ttft_s=0.9), first=first, later={"interference": 9.0})

    assert verdict.cause == verdict.targets["ttft"].cause == cause


@pytest.mark.parametrize(
    ("later", "cause"),
    [
        ({"decode": 1.7, "host": 0.3}, "decode"),  # more than 4 x 0.4 s by itself
        ({"decode": 1.2, "interference": 0.8}, "interference"),
    ],
)
def test_slow_tokens_are_blamed_on_what_came_after_the_first(
    later: dict[str, float], cause: str
) -> None:
    verdict = judged(Objective(tpot_s=0.4), first={"queue": 9.0}, later=later)

    assert verdict.cause == cause


def test_a_late_end_is_blamed_on_the_whole_way() -> None:
    verdict = judged(
        Objective(deadline_s=2.0),
        first={"queue": 0.7, "prompt": 0.3},
        later={"decode": 1.2, "interference": 0.8},
    )

    assert verdict.cause == "interference"
    assert verdict.targets["deadline"].slack_s == pytest.approx(-1.0)


def test_spent_adds_up() -> None:
    values = {name: 2.0**place for place, name in enumerate(Spent.__slots__)}

    assert Spent(**values).total_s == 2 ** len(values) - 1
