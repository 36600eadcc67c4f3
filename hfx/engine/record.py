"""Steps that are recorded once and replayed: what a launch costs the host is paid only once.

A recorded step reads its inputs and leaves its result at fixed addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from hfx.kernels import WorkList

Run = Callable[[WorkList], None]
Replay = Callable[[WorkList], None]


class Recorder(Protocol):
    """Records steps of one device."""

    def record(self, run: Run, work: WorkList) -> Replay:
        """Run a step and keep what it launched.

        The replay launches that again, for a later list of the same room.
        """
        ...


class DeviceGraphs:
    """Records with the graphs of torch.cuda, or of a module that is made like it (torch.npu)."""

    def __init__(self, module: Any, graph: Callable[[], Any]) -> None:
        self._module = module
        self._graph = graph
        self._memory: Any = None  # one pool: recordings run one at a time

    def record(self, run: Run, work: WorkList) -> Replay:
        """See `Recorder`."""
        stream = self._module.Stream()
        stream.wait_stream(self._module.current_stream())
        with self._module.stream(stream):
            run(work)  # libraries set themselves up in a first call, which can't be recorded
        self._module.current_stream().wait_stream(stream)
        graph = self._graph()
        with self._module.graph(graph, pool=self._memory):
            run(work)
        self._memory = graph.pool()

        def replay(work: WorkList) -> None:
            graph.replay()

        return replay


class EagerReplays:
    """Stands in for a recorder where there is no device: it records nothing and runs again."""

    def record(self, run: Run, work: WorkList) -> Replay:
        """See `Recorder`."""
        run(work)
        return run
