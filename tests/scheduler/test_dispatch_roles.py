"""How many replicas host what: answers that can be reckoned, and when they change."""

from math import inf

import pytest

from hfx.scheduler.dispatch_program import (
    HEADROOM,
    PROMPTS_ONLY,
    Load,
    Program,
    Way,
    alike_growth,
    prompts_only,
    ways,
)
from hfx.scheduler.dispatch_roles import MEMORY_S, Chooser, Roles, Traffic

from .builders import priced

TIGHT, LOOSE = 0.05, 0.5


def test_a_way_does_what_its_step_holds() -> None:
    cost = priced(fixed_s=0.010, each_s=0.001)  # 10 ms, and 1 ms per token

    found = ways(cost, [0.1], 100, 0)

    for way in found:  # steps of 95, 70 or 50 ms: 85, 60 or 40 tokens
        step_s = next(s for s in (0.095, 0.07, 0.05) if _is_near(way, s))
        assert way.prompt_tokens + way.output_tokens == pytest.approx(
            (step_s - 0.01) * 1e3 / step_s
        )
    assert max(way.output_tokens for way in found) == pytest.approx(85 / 0.095)


def _is_near(way: Way, step_s: float) -> bool:
    tokens = (way.prompt_tokens + way.output_tokens) * step_s
    return abs(tokens - (step_s - 0.01) * 1e3) < 1.0


def test_replicas_for_prompts_only_pay_the_fixed_cost_once_a_long_step() -> None:
    way = prompts_only(priced(), 0)

    assert way.tier_s == PROMPTS_ONLY and way.output_tokens == 0
    assert way.prompt_tokens == pytest.approx(2048 / 2.058)


def test_shares_are_those_that_carry_most() -> None:
    found = [Way(TIGHT, 100.0, 100.0), Way(LOOSE, 300.0, 300.0)]
    loads = [Load(TIGHT, 50.0, 50.0), Load(LOOSE, 450.0, 450.0)]

    best = Program(loads, found, moves=False).best(4)

    # One tight replica carries its 50, and 100 - 50 of the rest; three loose ones 900.
    assert best is not None and dict(best.tiers) == {TIGHT: 1, LOOSE: 3}
    assert best.growth == pytest.approx(min(100 / (50 * HEADROOM), 1000 / 500))


def test_prompts_may_be_apart_from_streams_only_where_these_can_be_moved() -> None:
    found = [Way(TIGHT, 10.0, 100.0), Way(PROMPTS_ONLY, 1000.0, 0.0)]
    loads = [Load(TIGHT, 1000.0, 100.0)]

    moved = Program(loads, found, moves=True).best(2)
    still = Program(loads, found, moves=False)

    assert moved is not None and dict(moved.tiers) == {TIGHT: 1, PROMPTS_ONLY: 1}
    assert moved.growth == pytest.approx(1.0)
    assert still.growth({TIGHT: 2}) == pytest.approx(0.02)


def test_a_tier_that_nobody_hosts_carries_nothing() -> None:
    found = [Way(LOOSE, 300.0, 300.0)]

    assert Program([Load(TIGHT, 1.0, 1.0)], found, moves=False).best(3) is None
    assert alike_growth([Load(TIGHT, 1.0, 1.0)], found, 3) == 0.0


def test_what_nobody_hosts_is_told_at_once_however_many_replicas_there_are() -> None:
    found = [Way(n * LOOSE, 300.0, 300.0) for n in (1, 2, 3)] + [Way(PROMPTS_ONLY, 9.0, 0.0)]

    assert Program([Load(TIGHT, 1.0, 1.0)], found, moves=True).best(1000) is None


@pytest.mark.parametrize("moves", [True, False])
def test_a_pace_that_no_step_can_keep_takes_nobody_s_roles(moves: bool) -> None:
    made, other = chooser(4, 12), chooser(4, 12)
    made.traffic.arrived(1e-4, 1, 1.0, 10.0)

    roles = made.look(priced(), 4, 10.0, moves=moves)

    assert roles == other.look(priced(), 4, 10.0, moves=moves) != Roles()


def test_traffic_is_an_average_from_the_first_request_on() -> None:
    traffic = Traffic()
    for n in range(40):
        traffic.arrived(TIGHT, 100, 10.0, n / 4)

    (load,) = traffic.loads(10.0)

    assert load.prompt_tokens == pytest.approx(400, rel=0.1)
    assert load.output_tokens == pytest.approx(40, rel=0.1)
    assert traffic.context_tokens == 105 and traffic.history_tokens == 50
    assert traffic.loads(10.0 + 2 * MEMORY_S) == []


def chooser(tight: int, loose: int) -> Chooser:
    """So many requests a second of each kind for ten seconds: 200 tokens in, 20 out."""
    made = Chooser()
    for n in range(10 * (tight + loose)):
        pace_s = TIGHT if n % (tight + loose) < tight else LOOSE
        made.traffic.arrived(pace_s, 200, 20.0, n / (tight + loose))
    return made


def test_little_traffic_needs_no_roles() -> None:
    assert chooser(1, 1).look(priced(), 4, 10.0, moves=False) == Roles()


def test_much_traffic_of_two_kinds_parts_them() -> None:
    made = chooser(2, 13)

    roles = made.look(priced(), 4, 10.0, moves=False)

    assert set(roles.paces) == {TIGHT, LOOSE} and list(roles.paces) == sorted(roles.paces)
    assert made.look(priced(), 4, 10.5, moves=False) is roles


def test_who_computes_prompts_only_hosts_nothing() -> None:
    roles = chooser(8, 8).look(priced(), 4, 10.0, moves=True)

    assert roles.paces[-1] == inf and roles.pace_s(3) == inf
    assert roles.pace_s(99) == 0.0  # who has joined since hosts all


def test_one_replica_has_no_role() -> None:
    assert chooser(9, 9).look(priced(), 1, 10.0, moves=True) == Roles()


def test_prompts_stay_beside_streams_as_long_as_both_fit_well() -> None:
    def look(per_s: int, prompt: int) -> Roles:
        made = Chooser()
        for n in range(10 * per_s):
            pace_s = 0.02 if n % 10 == 0 else LOOSE
            made.traffic.arrived(pace_s, prompt, prompt / 10, n / per_s)
        return made.look(priced(), 4, 10.0, moves=True)

    assert look(4, 200) == Roles()
    assert look(8, 200) == Roles((0.02, LOOSE, LOOSE, LOOSE))
    assert look(12, 200) == Roles((0.02, inf, inf, inf))
    assert look(1, 20_000).is_apart  # however few: each of them stands in the way for 20 s
