"""The whole server on the bundled model: start, decode, prompts, batches, memory.

Starts `python -m hfx.serve` by itself (or measures one that runs, with --base-url), with other
servers beside it in the same run where they are given. What each figure means is in README.md.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from hfx.bench.client import Outcome, Target, send
from hfx.bench.load import open_session, run_load
from hfx.bench.metrics import summarize, tpot_s
from hfx.bench.record import Record
from hfx.bench.server import Unusable, models, served_pool
from hfx.bench.workload import Prompt, RandomLengths, TokenPool, random_prompts
from hfx.models.hub import bundled_path

from . import bounds, limits, peers
from .process import ServerProcess, free_port, serving
from .record import finish, parser, print_rows

PROMPT_TOKENS, DECODE_TOKENS = 512, 128
BATCH_IN, BATCH_OUT = 256, 64
START_TIMEOUT_S = 180.0
RETRY_S = 0.01
FIGURES = (
    "start_s",
    "decode_tok_s",
    "prompt_tok_s",
    "out_tok_s_8",
    "out_tok_s_16",
    "ttft_p99_ms_16",
    "tpot_p99_ms_16",
    "memory_mb",
)


@dataclass(frozen=True, slots=True)
class Effort:
    """How often each thing is repeated."""

    starts: int = 3
    singles: int = 5
    requests_8: int = 48
    requests_16: int = 64


QUICK = Effort(starts=1, singles=3, requests_8=16, requests_16=32)


async def first_token_s(server: ServerProcess) -> float:
    """From the start of the process to a request's first token, asking until one is answered."""
    problem = ""
    async with open_session() as session:
        while time.perf_counter() < server.started_s + START_TIMEOUT_S:
            server.check()
            try:
                model = (await models(session, server.base_url, {}, timeout_s=0.0)).ids[0]
            except Unusable as error:
                problem = str(error)
                await asyncio.sleep(RETRY_S)
                continue
            target = Target(base_url=server.base_url, model=model)
            outcome = await send(session, target, Prompt("The capital of France is", 1))
            if outcome.success:
                return outcome.start_s + outcome.ttft_s - server.started_s
            problem = outcome.error
            await asyncio.sleep(RETRY_S)
    raise RuntimeError(f"no answer within {START_TIMEOUT_S:.0f} s: {problem}")


class Loads:
    """The loads of the benchmark on one server; no two prompts of a server are alike."""

    def __init__(self, session: aiohttp.ClientSession, target: Target, pool: TokenPool) -> None:
        self._session = session
        self._target = target
        self._pool = pool
        self._rng = np.random.default_rng(0)

    async def alone(self, times: int, inputs: int, outputs: int) -> list[Outcome]:
        """One request after the other."""
        return (await self._closed(1, times, inputs, outputs))[0]

    async def closed(self, clients: int, requests: int) -> dict[str, float]:
        """Throughput and tails of so many clients, each asking again once it is answered."""
        outcomes, duration_s = await self._closed(clients, requests, BATCH_IN, BATCH_OUT)
        result = summarize(outcomes, duration_s)
        return {
            f"out_tok_s_{clients}": result["output_throughput"],
            f"ttft_p99_ms_{clients}": result["p99_ttft_ms"],
            f"tpot_p99_ms_{clients}": result["p99_tpot_ms"],
        }

    async def _closed(
        self, clients: int, requests: int, inputs: int, outputs: int
    ) -> tuple[list[Outcome], float]:
        lengths = RandomLengths(input_len=inputs, output_len=outputs)
        prompts = random_prompts(self._rng, requests, lengths, self._pool, as_text=False)
        run = await run_load(self._session, self._target, prompts, max_concurrency=clients)
        for outcome in run.outcomes:
            if not outcome.success:
                raise RuntimeError(f"a request of {inputs} tokens failed: {outcome.error}")
            if outcome.output_tokens != outputs:
                raise RuntimeError(f"{outcome.output_tokens} tokens came where {outputs} were due")
        return list(run.outcomes), run.duration_s


async def measure(base_url: str, effort: Effort) -> dict[str, float]:
    """Every figure that needs a running server only."""
    async with open_session() as session:
        model = (await models(session, base_url, {}, START_TIMEOUT_S)).ids[0]
        target = Target(
            base_url=base_url, model=model, ignore_eos=True, extra_body={"temperature": 0}
        )
        loads = Loads(session, target, await served_pool(session, target))
        await loads.alone(2, PROMPT_TOKENS, 2)  # warm
        decodes = await loads.alone(effort.singles, 16, DECODE_TOKENS)
        prompts = await loads.alone(effort.singles + 2, PROMPT_TOKENS, 1)
        return {
            "decode_tok_s": 1 / statistics.median(tpot_s(outcome) for outcome in decodes),
            "prompt_tok_s": PROMPT_TOKENS / statistics.median(o.ttft_s for o in prompts),
            **await loads.closed(8, effort.requests_8),
            **await loads.closed(16, effort.requests_16),
        }


def measure_command(command: Sequence[str], port: int, effort: Effort) -> dict[str, float]:
    """Every figure of a server that is started for it, `start_s` as a median of its starts."""
    starts_s = []
    for remaining in reversed(range(effort.starts)):
        with serving(command, port) as server:
            starts_s.append(asyncio.run(first_token_s(server)))
            if not remaining:
                figures = asyncio.run(measure(server.base_url, effort))
                figures["memory_mb"] = server.memory_bytes() / 1e6
    return {"start_s": statistics.median(starts_s), **figures}


def measure_peer(name: str, where: str, effort: Effort) -> dict[str, float]:
    """A peer that runs at a URL, or llama-server as a program."""
    if where.startswith("http"):
        return asyncio.run(measure(where, effort))
    if name != "llama-server":
        raise SystemExit(f"--peer {name}={where}: only llama-server can be started; give a URL")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "bf16.gguf"
        peers.write_bf16(bundled_path(), model)
        return measure_command(peers.llama_server_command(Path(where), model, port), port, effort)


def bounds_of(machine: limits.Limits) -> dict[str, float]:
    """What the measured limits allow at most, by figure."""
    return {
        "decode_tok_s": bounds.decode_tok_s(machine),
        "prompt_tok_s": bounds.prompt_tok_s(machine, PROMPT_TOKENS),
        "out_tok_s_8": bounds.out_tok_s(machine, 8, BATCH_IN, BATCH_OUT),
        "out_tok_s_16": bounds.out_tok_s(machine, 16, BATCH_IN, BATCH_OUT),
    }


def rows(measured: dict[str, dict[str, float]], most: dict[str, float]) -> list[dict[str, Any]]:
    """A row a server and figure: beside it the limit, and the best recorded peer."""
    table = []
    for server, figures in measured.items():
        for name in figures:
            peer, theirs = peers.better(name) if name in FIGURES else (None, None)
            table.append(
                {
                    "server": server,
                    "figure": name,
                    "value": figures[name],
                    "limit": most.get(name),
                    "of_limit": figures[name] / most[name] if name in most else None,
                    "recorded": theirs,
                    "of_recorded": figures[name] / theirs if theirs else None,
                    "recorded_peer": peer,
                }
            )
    return table


def options_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    commands = parser(__doc__.splitlines()[0])
    commands.add_argument("--base-url", help="measure a server that runs, instead of starting one")
    commands.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=WHERE",
        help="also measure the server at a URL, or llama-server=PROGRAM; may be repeated",
    )
    options = commands.parse_args(argv)
    for peer in options.peer:
        if "=" not in peer:
            commands.error(f"--peer {peer!r} is not NAME=WHERE")
    return options


def main() -> None:
    options = options_of()
    effort = QUICK if options.quick else Effort()
    record = Record("serve")
    machine = limits.measure_apart()
    if options.base_url:
        measured = {"hfx": asyncio.run(measure(options.base_url, effort))}
    else:
        port = free_port()
        command = [sys.executable, "-m", "hfx.serve", "--port", str(port)]
        measured = {"hfx": measure_command(command, port, effort)}
    for peer in options.peer:
        name, _, where = peer.partition("=")
        measured[name] = measure_peer(name, where, effort)
    record.rows = rows(measured, bounds_of(machine))
    record.summary = {name: measured["hfx"][name] for name in FIGURES if name in measured["hfx"]}
    record.machine["limits"] = asdict(machine)
    print_rows(record.rows)
    finish(record, options)


if __name__ == "__main__":
    main()
