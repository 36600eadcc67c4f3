"""Scalers on views whose answers can be worked out by hand."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfx.cost import CostModel, preset
from hfx.request import Mix
from hfx.scaler import (
    FleetView,
    Hpa,
    Order,
    QueueLength,
    ReplicaState,
    Scaler,
    Start,
    Static,
    Stop,
    TokenVelocity,
    Totals,
    ViolationReactive,
    build_scaler,
    resize,
)
from hfx.scaler.policy import State
from hfx.scaler.velocity import decode_velocity, prefill_velocity
from hfx.scheduler.dispatch_view import Role

COST: CostModel = preset("rtxpro6000-llama3.1-8b")


def replica(
    id: int,
    state: State = "ready",
    utilisation: float = 0.0,
    running: int = 0,
    role: Role = "mixed",
    since_s: float = 0.0,
) -> ReplicaState:
    return ReplicaState(id, state, role, since_s, COST, utilisation, running=running)


def fleet(now_s: float, *replicas: ReplicaState, **more: object) -> FleetView:
    return FleetView(now_s, replicas, **more)  # type: ignore[arg-type]


def busy(now_s: float, count: int, utilisation: float, starting: int = 0) -> FleetView:
    ready = [replica(id, "ready", utilisation) for id in range(count)]
    return fleet(now_s, *ready, *[replica(count + n, "starting") for n in range(starting)])


def change(orders: Sequence[Order]) -> int:
    """By how many replicas orders change a fleet."""
    return sum(one.count if isinstance(one, Start) else -1 for one in orders)


def test_a_fleet_shrinks_by_the_youngest_that_start_then_by_those_with_least_to_do() -> None:
    view = fleet(
        0.0,
        replica(0, running=5),
        replica(1, running=2),
        replica(2, "draining"),
        replica(3, "starting", since_s=1.0),
        replica(4, "starting", since_s=2.0),
        least=1,
    )

    assert resize(view, 1) == [Stop(4), Stop(3), Stop(1)]
    assert resize(view, 0) == resize(view, 1)
    assert resize(view, 6) == [Start(2)]
    assert resize(view, 4) == []


def test_static_orders_once_what_is_missing() -> None:
    scaler = Static(3)

    assert scaler.decide(busy(0.0, 1, 0.0)) == [Start(2)]
    assert scaler.wake_s == float("inf")


def test_hpa_multiplies_replicas_by_the_ratio_and_rounds_up() -> None:
    assert change(Hpa(0.7).decide(busy(0.0, 4, 0.9))) == 2  # 4 * 0.9 / 0.7 = 5.14


@pytest.mark.parametrize("utilisation", [0.64, 0.7, 0.76])
def test_hpa_does_nothing_within_its_tolerance(utilisation: float) -> None:
    assert Hpa(0.7).decide(busy(0.0, 10, utilisation)) == []


def test_hpa_counts_those_that_start_as_idle_where_that_means_growing_less() -> None:
    assert Hpa(0.7).decide(busy(0.0, 4, 1.0, starting=2)) == []  # 4 / 6 / 0.7 = 0.95
    assert change(Hpa(0.5).decide(busy(0.0, 4, 1.0, starting=2))) == 2  # 4 / 0.5 = 8


def test_hpa_shrinks_to_the_largest_wish_of_the_last_300_seconds() -> None:
    scaler = Hpa(0.7)
    asked = [(0.0, 0.7), (15.0, 0.35), (30.0, 0.14), (285.0, 0.14), (301.0, 0.14), (316.0, 0.14)]

    sizes = [10 + change(scaler.decide(busy(now_s, 10, load))) for now_s, load in asked]

    assert sizes == [10, 10, 10, 10, 5, 2]


def test_hpa_at_most_doubles_a_fleet_or_adds_four_replicas() -> None:
    assert change(Hpa(0.1).decide(busy(0.0, 2, 1.0))) == 4
    assert change(Hpa(0.1).decide(busy(0.0, 6, 1.0))) == 6


def test_hpa_looks_every_15_seconds() -> None:
    scaler = Hpa()
    scaler.decide(busy(0.0, 1, 0.7))
    assert scaler.wake_s == 15.0
    scaler.decide(busy(47.0, 1, 0.7))
    assert scaler.wake_s == 60.0


def test_queue_length_asks_for_requests_in_flight_over_its_target() -> None:
    view = fleet(0.0, replica(0, running=30), replica(1, running=28), queued=14)

    assert change(QueueLength(10.0).decide(view)) == 4  # 72 / 10 = 7.2: 8, but 4 more at most


def test_queue_length_scales_to_zero_after_its_cooldown_only() -> None:
    scaler = QueueLength(10.0, window_s=0.0, cooldown_s=100.0)

    assert scaler.decide(fleet(0.0, replica(0))) == []
    assert scaler.decide(fleet(90.0, replica(0))) == []
    assert scaler.decide(fleet(105.0, replica(0))) == [Stop(0)]
    assert scaler.decide(fleet(120.0, held=1, queued=1)) == [Start(1)]


def missed(now_s: float, ended: int, broken: int, count: int = 4, load: float = 0.9) -> FleetView:
    ready = [replica(id, "ready", load) for id in range(count)]
    return fleet(now_s, *ready, classes={"chat": Totals(ended=ended, missed=broken)})


def test_violations_grow_a_fleet_once_in_a_window() -> None:
    scaler = ViolationReactive(limit=0.05, growth=0.25)

    assert scaler.decide(missed(30.0, 100, 0)) == []
    assert change(scaler.decide(missed(35.0, 200, 6))) == 1
    assert scaler.decide(missed(40.0, 300, 60)) == []
    assert change(scaler.decide(missed(66.0, 900, 300, count=8))) == 2


def test_violations_let_a_fleet_shrink_only_where_the_others_have_time() -> None:
    scaler = ViolationReactive(calm_s=60.0, calm_load=0.8)

    assert scaler.decide(missed(70.0, 100, 0, load=0.7)) == []  # 2.8 > 0.8 * 3
    assert scaler.decide(missed(75.0, 100, 0, load=0.5)) == [Stop(3)]
    assert scaler.decide(missed(80.0, 100, 0, load=0.5)) == []


def test_velocities_are_what_a_replica_can_take() -> None:
    assert prefill_velocity(COST) == 2048 / COST.step_s(Mix.one(2048, 0)).mean_s
    full = Mix(256, 256 * 1500, decode_context_squares=256 * 1500**2)
    assert decode_velocity(COST) == 256 / COST.step_s(full).mean_s


def arrivals(now_s: float, prompt_tokens: int, *replicas: ReplicaState, **more: int) -> FleetView:
    totals = Totals(arrived=more.get("arrived", 0), prompt_tokens=prompt_tokens)
    return fleet(now_s, *(replicas or [replica(0)]), classes={"chat": totals})


def test_token_velocity_follows_the_rate_of_arrivals_at_once() -> None:
    scaler = TokenVelocity(headroom=1.0, window_s=10.0)
    each = prefill_velocity(COST)

    assert scaler.decide(arrivals(0.0, 0)) == []
    assert change(scaler.decide(arrivals(2.0, int(7 * each)))) == 3  # 3.5 replicas' work a second


def test_token_velocity_counts_the_outputs_to_come() -> None:
    scaler = TokenVelocity(headroom=1.0)
    requests = int(2.5 * decode_velocity(COST) / 128)

    scaler.decide(arrivals(0.0, 0))

    assert change(scaler.decide(arrivals(1.0, 0, arrived=requests))) == 2


def test_token_velocity_shrinks_to_what_it_wanted_lately() -> None:
    scaler = TokenVelocity(headroom=1.0, window_s=1.0, calm_s=60.0)
    here = [replica(id) for id in range(4)]
    each = int(prefill_velocity(COST))

    scaler.decide(arrivals(0.0, 0, *here))
    scaler.decide(arrivals(1.0, 2 * each - 9, *here))

    assert scaler.decide(arrivals(59.0, 2 * each - 9, *here)) == []
    assert change(scaler.decide(arrivals(60.5, 2 * each - 9, *here))) == -2
    assert change(scaler.decide(arrivals(62.0, 2 * each - 9, *here))) == -4


def test_token_velocity_counts_prefill_and_decode_replicas_each_for_itself() -> None:
    scaler = TokenVelocity(headroom=1.0)
    here = [replica(0, role="prefill"), replica(1, role="decode")]
    prompts = int(2.5 * prefill_velocity(COST))

    scaler.decide(arrivals(0.0, 0, *here))
    orders = scaler.decide(arrivals(1.0, prompts, *here))

    assert orders == [Start(2, "prefill")]


def test_scalers_have_names() -> None:
    assert isinstance(build_scaler("hpa"), Hpa)
    peak, mean = (build_scaler(f"static_{name}", [1.0, 2.2, 4.1]) for name in ("peak", "mean"))
    assert isinstance(peak, Static) and isinstance(mean, Static)
    assert (peak.replicas, mean.replicas) == (5, 3)
    assert isinstance(fixed := build_scaler("static:7"), Static) and fixed.replicas == 7
    with pytest.raises(ValueError, match="one of static_peak, static_mean, hpa"):
        build_scaler("magic")
    with pytest.raises(ValueError, match="give static:N"):
        build_scaler("static_peak")


ELASTIC = ("hpa", "queue_length", "violation", "token_velocity")


@pytest.mark.parametrize("name", ELASTIC)
@given(data=st.data())
def test_no_scaler_leaves_the_limits_or_asks_to_be_woken_in_the_past(
    name: str, data: st.DataObject
) -> None:
    scaler: Scaler = build_scaler(name)
    now_s, ended, broken, tokens = 0.0, 0, 0, 0
    every: list[State] = ["starting", "ready", "draining"]
    states, shares = st.sampled_from(every), st.floats(0.0, 1.0)
    for _ in range(data.draw(st.integers(1, 12))):
        now_s += data.draw(st.floats(0.0, 40.0))
        ended += data.draw(st.integers(0, 50))
        broken = min(ended, broken + data.draw(st.integers(0, 10)))
        tokens += data.draw(st.integers(0, 200_000))
        here = [
            replica(id, data.draw(states), data.draw(shares), data.draw(st.integers(0, 60)))
            for id in range(data.draw(st.integers(0, 6)))
        ]
        totals = Totals(ended, tokens, ended, 10 * ended, broken)
        view = fleet(
            now_s, *here, classes={"a": totals}, held=data.draw(st.integers(0, 2)), least=1, most=5
        )
        orders = scaler.decide(view)

        assert scaler.wake_s > now_s
        size = view.size + change(orders)
        assert 1 <= size <= max(5, view.size) or (not orders and not view.size)
        stopped = [one.replica_id for one in orders if isinstance(one, Stop)]
        assert len(set(stopped)) == len(stopped)
        assert {*stopped} <= {one.id for one in view.of("starting", "ready")}
