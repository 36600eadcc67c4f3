"""The central queue stays in order, whoever is put off."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from hfx.scheduler.dispatch_fit import Fit, Speed
from hfx.scheduler.dispatch_queue import Queue, Waiting, by_due

from .builders import waits
from .fleets import view_of


def waiting(id: str, due_s: float, work_s: float) -> Waiting:
    return Waiting(waits(id, ttft_s=due_s), due_s, 0.1, work_s)


def select(queue: Queue, scale: float) -> list[str]:
    """Who is put off where the fleet has that much time."""
    view = view_of(0)
    speed = Speed.of(view)
    queue.select([Fit.of(view, speed, 0.0)], scale, 0.0, replace(speed, fixed_s=0.0))
    assert queue.promised == sorted(queue.promised, key=by_due)
    return [one.id for one in queue.promised if one.is_put_off]


def test_one_may_be_put_off_in_place_of_another() -> None:
    queue = Queue()
    queue.add(waiting("late", 2.0, 1.5))
    queue.add(waiting("soon", 1.0, 1.2))

    assert select(queue, 1.0) == ["soon"]
    assert select(queue, 1.42) == ["late"]
    assert queue.remove("late") is not None
    assert queue.remove("soon") is not None
    assert not queue


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.1, 5), st.floats(0.01, 2)), min_size=1, max_size=8),
    st.lists(st.floats(0.1, 5), min_size=1, max_size=5),
)
def test_whoever_is_put_off_can_be_found(
    requests: list[tuple[float, float]], scales: list[float]
) -> None:
    queue = Queue()
    for n, (due_s, work_s) in enumerate(requests):
        queue.add(waiting(f"{n}", due_s, work_s))
    for scale in scales:
        select(queue, scale)

    for n in range(len(requests)):
        found = queue.remove(f"{n}")
        assert found is not None and found.id == f"{n}" and found not in queue.promised
    assert not queue
