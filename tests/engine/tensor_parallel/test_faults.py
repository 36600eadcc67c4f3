"""Ranks that are killed, stopped or orphaned, and starts that can't be: real processes, real
signals."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from hfx.config import CacheConfig, CostConfig, EngineConfig, ModelConfig
from hfx.engine import LLM, AsyncEngine, EngineDead, build_engine, ranks
from hfx.request import Request, Sampling

Ended = Callable[[Iterable[int], float], bool]
ENDLESS = Sampling(temperature=0.0, max_tokens=250, ignore_eos=True)
SOON_S = 20.0  # these end within seconds; the rest is for a machine that others use

PARENT = """
import sys, threading
from hfx.config import CacheConfig, CostConfig, EngineConfig, ModelConfig
from hfx.engine import build_engine
from hfx.request import Request, Sampling

def build():
    global engine
    engine, _ = build_engine(EngineConfig(
        model=ModelConfig(model=sys.argv[1]),
        cache=CacheConfig(num_blocks_override=16),
        cost=CostConfig(cost_profile="off"),
        tensor_parallel_size=3,
        threads=1,
    ))

loader = threading.Thread(target=build)  # as a server does: ranks must outlive such a thread
loader.start()
loader.join()
print(*engine.company.pids, flush=True)
while True:
    engine.add(Request(
        id="r", prompt_token_ids=(1, 2, 3), sampling=Sampling(max_tokens=4, ignore_eos=True)
    ))
    while engine.has_work:
        engine.step()
    print("served", flush=True)
"""


def two_ranks(model: Path) -> EngineConfig:
    return EngineConfig(
        model=ModelConfig(model=str(model), dtype="float32"),
        cache=CacheConfig(num_blocks_override=16),
        cost=CostConfig(cost_profile="off"),
        threads=1,
        tensor_parallel_size=2,
    )


def test_a_rank_that_is_killed_ends_the_engine_with_its_name(
    small_model: Path, have_ended: Ended
) -> None:
    engine = AsyncEngine.launch(two_ranks(small_model))
    assert engine._engine.company is not None
    pids = engine._engine.company.pids

    async def serve() -> None:
        stream = engine.generate(Request(id="r", prompt_token_ids=(1, 2), sampling=ENDLESS))
        async for _ in stream:
            if engine.is_healthy:
                os.kill(pids[0], signal.SIGKILL)

    with pytest.raises(EngineDead, match=r"rank 1 of 2: it was killed by SIGKILL"):
        asyncio.run(asyncio.wait_for(serve(), SOON_S))

    assert not engine.is_healthy
    engine.close()
    assert have_ended(pids, 0.0)


def test_a_rank_that_is_stopped_is_given_up_and_an_idle_engine_hears_of_it(
    small_model: Path, have_ended: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "SILENCE_S", 2.0)
    engine, _ = build_engine(two_ranks(small_model))
    company, heard = engine.company, threading.Event()
    assert company is not None
    company.on_loss(lambda error: heard.set())

    os.kill(company.pids[0], signal.SIGSTOP)

    assert heard.wait(SOON_S)
    assert have_ended(company.pids, SOON_S)
    engine.add(Request(id="r", prompt_token_ids=(1, 2), sampling=ENDLESS))
    with pytest.raises(EngineDead, match="rank 1 of 2: nothing was heard of it for 2 s"):
        engine.step()
    engine.close()


def test_a_rank_that_stops_in_the_middle_of_a_step_does_not_hang_it(
    small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "SILENCE_S", 2.0)
    llm = LLM(str(small_model), tensor_parallel_size=2, num_blocks_override=64, threads=1)
    pids = llm._engine.company.pids  # type: ignore[union-attr]
    threading.Timer(0.05, os.kill, (pids[0], signal.SIGSTOP)).start()
    begun_s = time.monotonic()

    with pytest.raises(EngineDead, match="rank 1 of 2: nothing was heard of it for 2 s"):
        while time.monotonic() < begun_s + SOON_S:
            llm.generate([[1, 2, 3]], ENDLESS)

    llm.close()


def test_a_parent_that_is_killed_leaves_no_process(small_model: Path, have_ended: Ended) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(small_model)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    served = parent.stdout.readline()

    parent.kill()
    parent.wait()
    parent.stdout.close()

    assert len(pids) == 2
    assert served == "served\n"
    assert have_ended(pids, SOON_S)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tensor_parallel_size": 0}, "tensor_parallel_size is 0: it must be at least 1"),
        ({"tensor_parallel_size": 5}, "tensor_parallel_size is 5, and .* 4 query heads"),
        ({"tensor_parallel_size": 2, "model": "nowhere.gguf"}, "nowhere.gguf"),
        (
            {"tensor_parallel_size": 2, "kv_cache_memory_bytes": 1},
            "1 bytes for the key-value",
        ),
    ],
)
def test_a_start_that_cannot_be_says_why_and_leaves_no_process(
    options: dict[str, object], message: str, small_model: Path
) -> None:
    before = _children()

    with pytest.raises(ValueError, match=message):
        LLM(**{"model": str(small_model), **options})

    assert _children() == before


def test_a_rank_that_cannot_start_is_named(
    small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "CODE", "main = lambda: 1 / 0")

    with pytest.raises(EngineDead, match="rank 1 of 2: it ended with exit code 1"):
        build_engine(two_ranks(small_model))


def _children() -> set[str]:
    return set(Path("/proc/self/task").joinpath(str(os.getpid()), "children").read_text().split())
