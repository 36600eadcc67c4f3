"""Replicas that start, drain and stop as a scaler orders: what it costs, and nothing is lost."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from random import Random

import pytest

from hfx.cost.link import Link, Startup
from hfx.request import Objective
from hfx.scaler import FleetView, Order, Scaler, Start, Static, Stop, build_scaler
from hfx.scheduler.dispatch import SlackDispatcher
from hfx.scheduler.dispatch_fixed import LeastLoaded
from hfx.scheduler.dispatch_view import Flip
from hfx.simulate import Fleet, Job, Replica
from hfx.simulate.elastic import Elastic
from hfx.simulate.fleet import Failure
from hfx.simulate.starts import ColdStart

from .conftest import traffic
from .test_moves import Restless, served

Make = Callable[..., Replica]
WEIGHTS = 16_000_000_000
TEN = ColdStart.taking(10.0, WEIGHTS)
FROM_REPLICAS = ColdStart(startup=Startup({"process": 1.0}, WEIGHTS), from_replicas=True)


class Timed:
    """A scaler whose orders are given at given times; it keeps what it saw."""

    def __init__(self, *orders: tuple[float, Order]) -> None:
        self.orders = list(orders)
        self.seen: list[FleetView] = []

    @property
    def wake_s(self) -> float:
        return self.orders[0][0] if self.orders else inf

    def decide(self, view: FleetView) -> Sequence[Order]:
        self.seen.append(view)
        found = [order for at_s, order in self.orders if at_s <= view.now_s]
        self.orders = self.orders[len(found) :]
        return found


class Erratic:
    """Starts, stops and flips at random, every 0.3 s."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.wake_s = 0.0

    def decide(self, view: FleetView) -> Sequence[Order]:
        self.wake_s = view.now_s + 0.3
        draw = self.random.random()
        if draw < 0.4 or view.held:
            return [Start(self.random.choice((1, 2)))]
        if draw < 0.8:
            here = view.of("ready", "starting")
            return [Stop(one.id) for one in here if self.random.random() < 0.5]
        return [Flip(one.id, "decode") for one in view.of("ready")[:1]]


def long_job(id: str, at_s: float, output: int = 1000) -> Job:
    return Job.of(id, at_s, 500, output, Objective())


def elastic_fleet(
    make_replica: Make, count: int, scaler: Scaler, cold: ColdStart, **more: object
) -> Fleet:
    limits = {"least": more.pop("least", 0), "most": more.pop("most", 8)}
    return Fleet(
        [make_replica(id) for id in range(count)],
        more.pop("dispatcher", None) or LeastLoaded(),  # type: ignore[arg-type]
        spawn=make_replica,
        elastic=Elastic(scaler, **limits),  # type: ignore[arg-type]
        cold_start=cold,
        keep_tokens=True,
        **more,  # type: ignore[arg-type]
    )


def test_a_replica_from_disk_serves_after_its_start_and_costs_from_its_order(
    make_replica: Make,
) -> None:
    jobs = [long_job("a", 0.0), *[long_job(f"b{n}", 11.5, 20) for n in range(2)]]
    fleet = elastic_fleet(make_replica, 1, Timed((1.0, Start())), TEN)

    result = served(fleet, jobs)

    assert {fate.replica for fate in result.fates} == {0, 1}
    assert result.starts == 1
    assert result.accelerator_s == pytest.approx(result.end_s + result.end_s - 1.0)


def test_weights_from_a_running_replica_take_the_links_time_and_share_it(
    make_replica: Make,
) -> None:
    jobs = [long_job("a", 0.0, 500)]
    for count, ready_s in ((1, 1.0 + 1.0 + 1.6), (2, 1.0 + 1.0 + 3.2)):
        scaler = Timed((1.0, Start(count)), (ready_s - 0.01, Start(0)), (ready_s + 0.01, Start(0)))
        fleet = elastic_fleet(make_replica, 1, scaler, FROM_REPLICAS, link=Link(10e9))

        served(fleet, jobs)

        assert len(scaler.seen[1].of("ready")) == 1
        assert len(scaler.seen[2].of("ready")) == 1 + count
    assert scaler.seen[0].start_s == pytest.approx(2.6)


@pytest.mark.parametrize("second_donor", [True, False])
def test_weights_whose_donor_dies_come_on_from_another_or_from_the_disk(
    make_replica: Make, second_donor: bool
) -> None:
    cold = replace(FROM_REPLICAS, disk=Link(2e9))
    count = 2 if second_donor else 1
    ready_s = 2.8 + (0.8 if second_donor else 4.0)  # half of the weights is left
    scaler = Timed((1.0, Start()), (ready_s - 0.01, Start(0)), (ready_s + 0.01, Start(0)))
    fleet = elastic_fleet(
        make_replica, count, scaler, cold, link=Link(10e9), failures=[Failure(2.8, 0)]
    )

    result = served(fleet, [long_job("a", 0.0), long_job("b", 0.0)])

    assert len(scaler.seen[1].of("starting")) == 1
    assert not scaler.seen[2].of("starting")
    assert all(fate.replica > 0 for fate in result.fates)


def test_a_replica_that_drains_ends_what_it_runs_and_hands_back_what_waits(
    make_replica: Make,
) -> None:
    jobs = [long_job(f"a{n}", 0.0, 300) for n in range(4)] + [long_job("late", 2.0, 20)]
    fleet = elastic_fleet(make_replica, 2, Timed((1.0, Stop(0))), TEN)

    result = served(fleet, jobs)

    on_first = [fate for fate in result.fates if fate.replica == 0]
    assert len(on_first) == 2 and not sum(fate.preemptions for fate in result.fates)
    gone_s = max(fate.last_s or 0.0 for fate in on_first)
    assert gone_s > 2.0 and result.fates[-1].replica == 1
    assert result.accelerator_s == pytest.approx(gone_s + result.end_s)


def test_a_replica_that_is_given_up_while_it_starts_cost_its_time_until_then(
    make_replica: Make,
) -> None:
    fleet = elastic_fleet(make_replica, 1, Timed((1.0, Start()), (4.0, Stop(1))), TEN)

    result = served(fleet, [long_job("a", 0.0)])

    assert result.accelerator_s == pytest.approx(result.end_s + 3.0)


def test_requests_are_held_while_there_is_no_replica_and_served_by_the_first(
    make_replica: Make,
) -> None:
    scaler = Static(0)
    fleet = elastic_fleet(make_replica, 0, scaler, TEN)

    result = served(fleet, [long_job("a", 5.0, 10), long_job("b", 7.0, 10)])

    assert 15.0 < (result.fates[0].first_s or 0.0) < 15.5
    assert result.accelerator_s == pytest.approx(result.end_s - 5.0)


def test_orders_beyond_the_limits_are_not_carried_out(make_replica: Make) -> None:
    scaler = Timed((0.5, Start(9)), (1.0, Stop(0)), (1.1, Stop(1)), (1.2, Stop(2)), (1.3, Start(0)))
    fleet = elastic_fleet(make_replica, 1, scaler, TEN, least=2, most=3)

    served(fleet, [long_job("a", 0.0)])

    assert [view.size for view in scaler.seen] == [1, 3, 2, 2, 2]


def test_a_scaler_that_lets_held_requests_wait_for_ever_is_an_error(make_replica: Make) -> None:
    fleet = elastic_fleet(make_replica, 0, Timed(), TEN)

    with pytest.raises(RuntimeError, match="1 requests are left"):
        fleet.run([long_job("a", 0.0)])


def test_a_scaler_is_shown_arrivals_ends_and_broken_promises_by_class(make_replica: Make) -> None:
    scaler = Timed((1.0, Start(0)), (60.0, Start(0)))
    jobs = [
        Job.of("a", 0.0, 100, 10, Objective(ttft_s=1.0, tier="chat")),
        Job.of("b", 0.5, 200, 20, Objective(ttft_s=1e-6, tier="chat")),
        Job.of("c", 0.6, 4000, 30, Objective(tier="summ")),
        long_job("z", 61.0),
    ]
    fleet = elastic_fleet(make_replica, 1, scaler, TEN)

    served(fleet, jobs)

    chat, summ = (scaler.seen[1].classes[name] for name in ("chat", "summ"))
    assert (chat.arrived, chat.prompt_tokens, chat.ended) == (2, 300, 2)
    assert (chat.output_tokens, chat.missed) == (30, 1)
    assert (summ.prompt_tokens, summ.output_tokens, summ.missed) == (4000, 30, 0)
    assert 0 < scaler.seen[0].replicas[0].utilisation < 1
    assert scaler.seen[1].replicas[0].utilisation < scaler.seen[0].replicas[0].utilisation


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("cold", [ColdStart.taking(1.5, WEIGHTS), FROM_REPLICAS])
def test_nothing_is_lost_or_served_twice_however_replicas_come_and_go(
    make_replica: Make, seed: int, cold: ColdStart
) -> None:
    def run() -> tuple[list[list[float] | None], float, int]:
        fleet = elastic_fleet(
            lambda id: make_replica(id, "hfx", 400),
            3,
            Erratic(seed),
            cold,
            dispatcher=Restless(seed) if seed % 2 else SlackDispatcher(),
            failures=[Failure(1.0 + n, n, back_after_s=1.0) for n in range(6)],
            link=Link(10e9),
            flip_s=0.1,
        )
        result = served(fleet, traffic(50, rate=15.0, seed=seed))
        return [fate.token_s for fate in result.fates], result.accelerator_s, result.starts

    one, other = run(), run()

    assert one == other
    assert one[2] > 0


@pytest.mark.parametrize("name", ["hpa", "queue_length", "violation", "token_velocity", "static:5"])
def test_each_scaler_grows_a_fleet_under_load_and_serves_everybody(
    make_replica: Make, name: str
) -> None:
    fleet = elastic_fleet(make_replica, 1, build_scaler(name), FROM_REPLICAS, least=1)

    result = served(fleet, traffic(500, rate=25.0))

    assert result.starts > 0
