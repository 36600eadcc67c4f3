"""Recorded steps: whatever the batch, they launch the same on the same addresses, and nothing that
waits for the device; that is what a graph needs. Here they run again instead of being replayed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.interpreter import InterpretedFunction

from hfx.engine.batch import StepBatch
from hfx.engine.record import DeviceGraphs
from hfx.request import Mix

from .conftest import Interpreted

WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "item")


def decodes(contexts: list[int]) -> StepBatch:
    count, columns = len(contexts), -(-max(contexts) // 16)
    table_SC = (np.arange(count * columns, dtype=np.int32) % 8).reshape(count, columns)
    return StepBatch(
        token_ids_T=np.arange(5, 5 + count),
        query_starts=np.arange(count + 1, dtype=np.int32),
        context_lens_S=np.array(contexts, np.int32),
        table_SC=table_SC,
        sampled_rows_R=np.arange(count),
        draws=(),
        mix=Mix.of((1, context - 1) for context in contexts),
    )


class Ops(TorchDispatchMode):
    """Writes down torch's operators, the shapes of what they take, and whether they may wait."""

    def __init__(self, log: list[Any]) -> None:
        super().__init__()
        self.log = log

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shapes = [tuple(x.shape) for x in args if isinstance(x, torch.Tensor)]
        self.log.append((str(func), shapes))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every launch: kernel, grid, scalars, and the addresses of tensors."""
    log: list[Any] = []
    run = InterpretedFunction.run

    def logged(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        shown = [("at", x.data_ptr()) if hasattr(x, "data_ptr") else x for x in args]
        log.append((self.fn.__name__, grid, shown, kwargs))
        return run(self, *args, grid=grid, warmup=warmup, **kwargs)

    monkeypatch.setattr(InterpretedFunction, "run", logged)
    return log


def lasting(executor: Any) -> set[int]:
    """Addresses of what outlives a step."""
    captured, decoder = executor.captured, executor._decoder
    room = captured._room
    tensors = [*room.on_device.values(), room.partial, room.stats, captured._logits]
    tensors += [part for cache in captured._caches for part in (cache.k, cache.v)]
    tensors += [decoder._table_PR, decoder._weights.final_norm_D, captured._ids]
    return {x.data_ptr() for x in tensors}


def steady(launches: list[Any], known: set[int]) -> list[Any]:
    """Launches with the addresses that a recording relies on; scratch memory is its own."""

    def place(value: Any) -> Any:
        if isinstance(value, tuple) and value[:1] == ("at",):
            return value if value[1] in known else "scratch"
        return value

    return [(name, grid, [place(x) for x in shown], kw) for name, grid, shown, kw in launches]


@torch.inference_mode()
def test_a_step_launches_the_same_whatever_its_batch_and_never_waits(
    interpreted: Interpreted, launches: list[Any]
) -> None:
    executor = interpreted.executor
    executor.fill(range(8))
    known, found = lasting(executor), []

    for contexts in ([3, 96, 17], [70, 2, 1], [1, 1, 1]):
        launches.clear()
        ops: list[Any] = []
        with Ops(ops):
            executor.captured.logits(decodes(contexts))
        inside = ops[[name for name, _ in ops].index("aten.index_select.default") :]
        found.append((steady(launches, known), inside))

    assert found[0] == found[1] == found[2]
    names = [name for name, *_ in found[0][0]]
    assert {"ragged_attention", "reduce_splits", "rope", "rms_norm"} <= set(names)
    assert not [op for op, _ in found[0][1] if any(word in op for word in WAITING)]


@torch.inference_mode()
def test_a_recorded_step_gives_the_logits_of_a_launched_one(interpreted: Interpreted) -> None:
    executor = interpreted.executor
    batch = decodes([40, 96])
    wanted = StepBatch(
        batch.token_ids_T,
        batch.query_starts,
        batch.context_lens_S,
        batch.table_SC,
        batch.sampled_rows_R,
        draws=("only their number counts",) * 2,  # type: ignore[arg-type]
        mix=batch.mix,
    )
    executor.fill(range(8))

    recorded_RV = executor.captured.logits(batch).clone()
    launched_RV = executor._launched(wanted)

    assert torch.isfinite(recorded_RV).all()
    assert torch.equal(recorded_RV[:2], launched_RV[:2])


def test_which_steps_are_replayed(interpreted: Interpreted) -> None:
    captured = interpreted.executor.captured
    prompt = decodes([5])
    two_tokens = StepBatch(
        np.array([5, 6]),
        np.array([0, 2], np.int32),
        prompt.context_lens_S,
        prompt.table_SC,
        prompt.sampled_rows_R,
        (),
        prompt.mix,
    )

    assert captured.takes(decodes([5, 6, 7]))
    assert not captured.takes(decodes([5, 6, 7, 8]))
    assert not captured.takes(two_tokens)


class RecordingCuda:
    """Stands in for torch.cuda: writes down what is asked of it."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def Stream(self) -> Any:
        return self

    def current_stream(self) -> Any:
        return self

    def wait_stream(self, other: Any) -> None:
        self.log.append("wait")

    def stream(self, stream: Any) -> Any:
        return _Scope(self.log, "side")

    def graph(self, graph: Any, pool: Any) -> Any:
        return _Scope(self.log, f"record pool={pool}")


class _Scope:
    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name

    def __enter__(self) -> None:
        self.log.append(f"{self.name} [")

    def __exit__(self, *error: object) -> None:
        self.log.append("]")


class _Graph:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def pool(self) -> str:
        return "shared"

    def replay(self) -> None:
        self.log.append("replay")


def test_a_recorder_tries_a_step_first_records_it_and_replays_without_running_it() -> None:
    cuda = RecordingCuda()
    graphs = DeviceGraphs(cuda, lambda: _Graph(cuda.log))

    def run(work: Any) -> None:
        cuda.log.append(f"run {work}")

    replay = graphs.record(run, "a")  # type: ignore[arg-type]
    graphs.record(run, "b")  # type: ignore[arg-type]
    replay("c")  # type: ignore[arg-type]

    first = ["wait", "side [", "run a", "]", "wait", "record pool=None [", "run a", "]"]
    then = ["wait", "side [", "run b", "]", "wait", "record pool=shared [", "run b", "]"]
    assert cuda.log == [*first, *then, "replay"]
