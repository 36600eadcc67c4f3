"""Requests that move between replicas: nothing lost, nothing twice, whatever fails when."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import inf
from random import Random

import pytest

from hfx.cost.link import Link
from hfx.request import FinishReason, Mix, Objective, Refused, Request
from hfx.scheduler import Live
from hfx.scheduler.dispatch_fixed import LeastLoaded
from hfx.scheduler.dispatch_view import (
    Bind,
    Decision,
    Flip,
    Migrate,
    Refuse,
    ReplicaView,
    Role,
    Unbind,
)
from hfx.simulate import Fleet, Job, Replica, Result
from hfx.simulate.fleet import Failure

from .conftest import traffic

Make = Callable[..., Replica]
ROLES: tuple[Role, ...] = ("mixed", "prefill", "decode")


class Scripted(LeastLoaded):
    """Binds to replica 0 and gives its orders at given times."""

    def __init__(self, *orders: tuple[float, Decision]) -> None:
        super().__init__()
        self.orders = sorted(orders, key=lambda order: order[0])

    @property
    def wake_s(self) -> float:  # type: ignore[override]
        return self.orders[0][0] if self.orders else inf

    def woke(self, now_s: float) -> Sequence[Decision]:
        found = [order for at_s, order in self.orders if at_s <= now_s]
        self.orders = self.orders[len(found) :]
        here = {view.id for view in self.replicas}
        return [o for o in found if not isinstance(o, Migrate) or o.target_id in here]

    def choose(self, live: Live) -> ReplicaView:
        return self.replicas[0]


class HandsOver(LeastLoaded):
    """Prompts on replica 0, decodes on replica 1."""

    def choose(self, live: Live) -> ReplicaView:
        return self.replicas[0]

    def stepped(self, replica_id: int, now_s: float) -> Sequence[Decision]:
        if replica_id:
            return ()
        done = [live.request.id for live in self.replicas[0].running if live.is_decoding]
        return [Migrate(id, 0, 1, keeps_decoding=False) for id in done]


class Restless(LeastLoaded):
    """Binds, unbinds, migrates and flips at random, and holds some requests back for a while."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = Random(seed)
        self.held: dict[str, Live] = {}
        self.wake_s = 0.0

    @property
    def has_queue(self) -> bool:  # type: ignore[override]
        return bool(self.held)

    def arrived(self, live: Live, now_s: float) -> Sequence[Decision]:
        if self.random.random() < 0.3:
            self.held[live.request.id] = live
            return ()
        return (Bind(live.request.id, self.random.choice(self.replicas).id),)

    def stepped(self, replica_id: int, now_s: float) -> Sequence[Decision]:
        if self.held and self.random.random() < 0.5:
            id = sorted(self.held)[0]
            del self.held[id]
            return (Bind(id, replica_id),)
        return self._stir() if self.random.random() < 0.2 else ()

    def woke(self, now_s: float) -> Sequence[Decision]:
        self.wake_s = now_s + self.random.uniform(0.01, 0.3)
        return self._stir()

    def _stir(self) -> list[Decision]:
        found: list[Decision] = []
        for view in self.replicas:
            other = self.random.choice(self.replicas)
            for live in list(view.running):
                if self.random.random() < 0.1:
                    lives = self.random.random() < 0.5
                    found.append(Migrate(live.request.id, view.id, other.id, lives))
            if view.waiting and self.random.random() < 0.2:
                live = view.waiting[-1]
                self.held[live.request.id] = live
                found.append(Unbind(live.request.id, view.id))
        if self.random.random() < 0.1:
            found.append(Flip(self.random.choice(self.replicas).id, self.random.choice(ROLES)))
        return found


def served(fleet: Fleet, jobs: list[Job]) -> Result:
    """A run in which every request got each of its tokens once, in order, and left nothing."""
    result = fleet.run(jobs)
    for fate in result.fates:
        tokens = fate.token_s or []
        assert fate.is_whole and fate.reason is FinishReason.STOP
        assert len(tokens) == fate.job.output_tokens
        assert all(one < other for one, other in pairwise(tokens))
        assert tokens[0] > fate.job.request.arrival_s
    for replica in fleet.replicas.values():
        assert replica.memory.available == replica.memory.total == replica.view.free_blocks
        assert not replica.flights and not replica.running and not replica.waiting
        assert not replica.incoming
        assert replica.view.prompt_tokens == 0
    assert all(one.target in fleet.roster.coming for one in fleet.links.flowing())  # weights
    return result


def one_job(prompt: int = 2000, output: int = 200) -> Job:
    return Job.of("a", 0.0, prompt, output, Objective(ttft_s=1.0, tpot_s=0.1))


def gap_s(tokens: list[float] | None) -> float:
    """The longest time between two tokens."""
    assert tokens
    return max(other - one for one, other in pairwise(tokens))


def test_a_live_migration_stalls_a_request_for_less_than_two_iterations(make_replica: Make) -> None:
    quiet = Fleet([make_replica(0)], LeastLoaded(), keep_tokens=True).run([one_job()]).fates[0]
    fleet = Fleet(
        [make_replica(0), make_replica(1)],
        Scripted((1.0, Migrate("a", 0, 1))),
        link=Link(0.5e9),
        keep_tokens=True,
    )

    result = served(fleet, [one_job()])

    assert result.fates[0].replica == 1 and result.moves == 1
    assert result.moved_bytes >= 2000 * 131072
    assert gap_s(result.fates[0].token_s) < 3 * gap_s(quiet.token_s)


def test_a_hand_off_rests_for_as_long_as_its_keys_and_values_are_on_their_way(
    make_replica: Make,
) -> None:
    link = Link(1e9, latency_s=0.01)
    fleet = Fleet([make_replica(0), make_replica(1)], HandsOver(), link=link, keep_tokens=True)

    result = served(fleet, [one_job()])

    fate = result.fates[0]
    assert fate.replica == 1 and result.moved_bytes == 2000 * 131072
    step_s = make_replica().device.step_s
    assert fate.token_s is not None
    transfer_s = link.seconds(2000 * 131072)
    assert fate.token_s[1] - fate.token_s[0] == pytest.approx(
        transfer_s + step_s(Mix.of([(1, 2000)]))
    )


def test_two_hand_offs_at_once_share_the_link(make_replica: Make) -> None:
    jobs = [Job.of(id, 0.0, 900, 5, Objective()) for id in "ab"]
    fleet = Fleet([make_replica(0), make_replica(1)], HandsOver(), link=Link(1e9), keep_tokens=True)

    fates = served(fleet, jobs).fates

    for fate in fates:
        assert fate.token_s is not None
        assert fate.token_s[1] - fate.token_s[0] > 2 * 900 * 131072 / 1e9


@pytest.mark.parametrize("keeps_decoding", [True, False])
@pytest.mark.parametrize("dies", [0, 1])
def test_a_request_on_its_way_survives_either_side(
    make_replica: Make, keeps_decoding: bool, dies: int
) -> None:
    order = Migrate("a", 0, 1, keeps_decoding)  # takes 2.6 s
    fleet = Fleet(
        [make_replica(0), make_replica(1)],
        Scripted((1.0, order)),
        failures=[Failure(2.0, dies)],
        link=Link(0.1e9),
        keep_tokens=True,
    )

    result = served(fleet, [one_job(output=400)])

    assert result.moves == 0 and result.fates[0].replica == 1 - dies
    assert result.fates[0].preemptions == (dies == 0)
    resumed = [s for s in result.fates[0].token_s or [] if s > 2.0]
    assert resumed[0] < 2.5
    if dies == 1 and keeps_decoding:
        assert gap_s(result.fates[0].token_s) < 0.05  # it never noticed


def test_a_request_that_ends_on_its_way_frees_what_was_reserved_for_it(make_replica: Make) -> None:
    fleet = Fleet(
        [make_replica(0), make_replica(1)],
        Scripted((1.0, Migrate("a", 0, 1))),
        link=Link(0.01e9),
        keep_tokens=True,
    )

    result = served(fleet, [one_job(output=100)])

    assert result.moves == 0 and result.fates[0].replica == 0


def test_a_hard_deadline_ends_a_request_that_rests(make_replica: Make) -> None:
    job = Job.of("a", 0.0, 2000, 400, Objective(deadline_s=3.0, on_miss="refuse"))
    other = Job.of("b", 0.0, 20, 2000, Objective())
    fleet = Fleet(
        [make_replica(0), make_replica(1)],
        Scripted((1.0, Migrate("a", 0, 1, keeps_decoding=False))),
        link=Link(0.01e9),
    )

    fates = fleet.run([job, other]).fates

    assert fates[0].reason is FinishReason.EXPIRED and fates[1].is_whole
    assert not fleet.links.flowing()
    assert all(r.memory.available == r.memory.total for r in fleet.replicas.values())


def test_a_target_without_room_is_not_moved_to(make_replica: Make) -> None:
    fleet = Fleet(
        [make_replica(0), make_replica(1, blocks=20)],
        Scripted((1.0, Migrate("a", 0, 1))),
        keep_tokens=True,
    )

    result = served(fleet, [one_job()])

    assert result.moves == 0 and result.fates[0].replica == 0


def test_a_flip_pauses_a_replica_between_two_steps_and_loses_nothing(make_replica: Make) -> None:
    fleet = Fleet(
        [make_replica(0)], Scripted((1.0, Flip(0, "decode"))), flip_s=0.7, keep_tokens=True
    )

    result = served(fleet, [one_job()])

    assert fleet.replicas[0].view.role == "decode"
    assert 0.7 < gap_s(result.fates[0].token_s) < 0.75


FAILURES = (Failure(1.0, 0, 0.5), Failure(2.0, 1, 2.0), Failure(2.1, 2), Failure(4.0, 0, 1.0))


def restless(make_replica: Make, policy: str, seed: int, *, jumps: bool, prefixes: bool) -> Fleet:
    def spawn(id: int) -> Replica:
        return make_replica(id, policy, 400, jumps=jumps, prefixes=prefixes)

    return Fleet(
        [spawn(id) for id in range(4)],
        Restless(seed),
        failures=FAILURES,
        spawn=spawn,
        link=Link(1e9, latency_s=0.001),
        flip_s=0.2,
        keep_tokens=True,
    )


@pytest.mark.parametrize("policy", ["fcfs", "hfx", "qoserve_like", "scorpio_like", "edf"])
@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_or_served_twice_whatever_moves_fails_and_flips(
    make_replica: Make, policy: str, seed: int
) -> None:
    jobs = traffic(70, rate=20.0, seed=seed)

    def run() -> Result:
        fleet = restless(make_replica, policy, seed, jumps=True, prefixes=seed == 2)
        return served(fleet, jobs)

    one, other = run(), run()

    assert one.moves > 5 and one.moved_bytes > 0
    assert [f.token_s for f in one.fates] == [f.token_s for f in other.fates]
    assert [f.replica for f in one.fates] == [f.replica for f in other.fates]
    assert (one.end_s, one.moved_bytes, one.steps) == (other.end_s, other.moved_bytes, other.steps)


@pytest.mark.parametrize("policy", ["fcfs", "hfx"])
def test_token_times_with_jumps_are_those_without_also_for_requests_that_move(
    make_replica: Make, policy: str
) -> None:
    jobs = traffic(60, rate=6.0)
    script = [
        (0.37 * n, Migrate(f"r{n}", 0, 1 + n % 2, keeps_decoding=n % 3 > 0)) for n in range(60)
    ]

    runs = []
    for jumps in (True, False):
        replicas = [make_replica(id, policy, jumps=jumps) for id in range(3)]
        fleet = Fleet(
            replicas,
            Scripted(*script, (4.0, Flip(1, "decode"))),
            failures=[Failure(5.0, 2)],
            link=Link(0.3e9),
            flip_s=0.1,
            keep_tokens=True,
        )
        runs.append(served(fleet, jobs))
    jumped, stepped = runs

    assert jumped.moves == stepped.moves > 5
    assert jumped.steps == stepped.steps and jumped.plans < stepped.plans
    assert [f.token_s for f in jumped.fates] == [f.token_s for f in stepped.fates]


def test_a_request_that_was_refused_is_over(make_replica: Make) -> None:
    class Refusing(LeastLoaded):
        def arrived(self, live: Live, now_s: float) -> Sequence[Decision]:
            return (Refuse(live.request.id, Refused("late", 1.0)),)

        def ended(self, request: Request, output_tokens: int, reason: FinishReason) -> None:
            raise AssertionError("it never began")

    fate = Fleet([make_replica()], Refusing()).run([one_job()]).fates[0]

    assert fate.was_refused and fate.reason is FinishReason.ABORT
