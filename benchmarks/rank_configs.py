"""Ranks the Triton kernels' tiles on the device at hand, and rewrites kernels/gpu/configs.json.

    .venv/bin/python -m benchmarks.rank_configs --device cuda [--only KIND] [--write]

Every candidate that fits is compared with plain torch before it's timed; candidates take turns. A
rule's entry is replaced where another one is faster by more than noise over all of its shapes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hfx.kernels import AttentionSpec, RaggedBatch
from hfx.kernels.fallback import TorchOperators
from hfx.kernels.gpu import TritonOperators
from hfx.kernels.gpu.configs import FALLBACK, RULES, Kind, launch_from
from hfx.kernels.gpu.work import GpuWork

from .rank_rules import (
    BUFFERS,
    Entry,
    Rules,
    candidates,
    nearest,
    scores,
    text_of,
    winner,
    with_entry,
)
from .record import print_rows
from .timing import medians_s

TOLERANCE = 2e-2  # of bfloat16 and of rounded probabilities, relative to 1 + |expected|
QUERY_HEADS, KV_HEADS = 32, 8
ROUNDS = 7
Pairs = tuple[tuple[int, int], ...]  # (new, cached) tokens of every sequence


@dataclass(frozen=True, slots=True)
class Shape:
    """Attention that an entry is timed on."""

    kind: Kind
    spec: AttentionSpec
    pairs: Pairs

    @property
    def head_bytes(self) -> int:
        """Which rule holds for it; float32 has the last one."""
        wide = self.spec.dtype == torch.float32
        return 1024 if wide else self.spec.head_size * self.spec.dtype.itemsize


def shapes() -> Iterator[Shape]:
    """What serving asks of each rule: contexts larger than caches, a small page, 8-bit numbers."""
    steps: dict[Kind, Pairs] = {
        "decode": ((1, 4095),) * 32,
        "prompt": ((2048, 0), (512, 6144)),
        "mixed": ((1, 2047),) * 32 + ((512, 512),),
    }
    for size in (64, 128, 256):
        for kind, pairs in steps.items():
            for page in (64, 16):
                spec = AttentionSpec(QUERY_HEADS, KV_HEADS, size, page, torch.bfloat16)
                yield Shape(kind, spec, pairs)
    for kind, pairs in steps.items():
        yield Shape(kind, AttentionSpec(QUERY_HEADS, KV_HEADS, 128, 64, torch.float32), pairs)


class Bench:
    """One shape with its tensors on the device."""

    def __init__(self, operators: TritonOperators, device: torch.device, shape: Shape) -> None:
        self._operators, self._device, self.shape = operators, device, shape
        spec = shape.spec
        new_S, cached_S = np.array(shape.pairs).T
        context_S = new_S + cached_S
        columns = -(-int(context_S.max()) // spec.page_tokens)
        pages = np.random.default_rng(0).permutation(len(new_S) * columns)
        table_SC = pages.reshape(len(new_S), columns)
        self.batch = RaggedBatch(np.cumsum([0, *new_S]), context_S, table_SC, spec.page_tokens)
        everything = RaggedBatch(np.cumsum([0, *context_S]), context_S, table_SC, spec.page_tokens)
        generator = torch.Generator(device).manual_seed(0)

        def random(tokens: int, heads: int) -> torch.Tensor:
            x = torch.randn(tokens, heads, spec.head_size, generator=generator, device=device)
            return x.to(spec.dtype)

        self.q_TNH = random(self.batch.tokens, spec.query_heads)
        k_CMH, v_CMH = (random(everything.tokens, spec.kv_heads) for _ in range(2))
        plain = TorchOperators(device)
        caches = [each.allocate_cache(spec, len(pages)) for each in (operators, plain)]
        for each, cache in zip((operators, plain), caches, strict=True):
            each.kv_write(cache, k_CMH, v_CMH, everything.slots_T)
        self.cache = caches[0]
        self.expected = plain.attend(self.q_TNH, caches[1], plain.plan(spec, self.batch)).float()
        self._out = torch.empty_like(self.q_TNH)

    def work(self, entry: Entry) -> GpuWork:
        """The step as that entry has it cut."""
        launch = launch_from(entry, self.shape.spec)
        programs = self._operators.on.cores * launch.programs_per_core
        return GpuWork.planned(
            self.shape.spec, self.batch, launch, programs, self._device, fixed=False
        )

    def attend(self, work: GpuWork) -> torch.Tensor:
        """The step's result, computed so."""
        return self._operators.attend(self.q_TNH, self.cache, work, self._out)

    def complaint(self, entry: Entry) -> str | None:
        """Why the entry can't be timed, or None."""
        try:
            found = self.attend(self.work(entry)).float()
        except Exception as error:  # Triton's compilers and the driver raise anything
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:80]}"
        off = ((found - self.expected).abs() / (1 + self.expected.abs())).max().item()
        return None if off < TOLERANCE else f"off by {off:.3g}"


def times_s(bench: Bench, entries: Sequence[Entry], rounds: int) -> list[float | str]:
    """The time of each entry, or why it has none."""
    complaints = [bench.complaint(entry) for entry in entries]
    works = {i: bench.work(e) for i, e in enumerate(entries) if complaints[i] is None}

    def waited(work: GpuWork) -> None:
        bench.attend(work)
        if bench.q_TNH.is_cuda:
            torch.cuda.synchronize()

    ways = {str(i): (lambda work=work: waited(work)) for i, work in works.items()}
    found = medians_s(ways, rounds=rounds) if ways else {}
    return [found.get(str(i), why or "") for i, why in enumerate(complaints)]


def rank(
    benches: Sequence[Bench], entries: Sequence[Entry], rounds: int
) -> tuple[list[dict[str, Any]], int]:
    """A row for every entry, best first, and the winner's place in `entries`.

    The first entry is the one that is there.
    """
    measured = [times_s(bench, entries, rounds) for bench in benches]
    usable = {
        i: [time for times in measured if isinstance(time := times[i], float)]
        for i in range(len(entries))
    }
    usable = {i: times for i, times in usable.items() if len(times) == len(benches)}
    if 0 not in usable:  # whatever runs is better than what doesn't
        usable = {0: [float("inf")] * len(benches)} | usable
    relative = scores(usable) if len(usable) > 1 else dict.fromkeys(usable, 1.0)
    order = sorted(range(len(entries)), key=lambda i: relative.get(i, float("inf")))
    rows = [
        {
            "entry": json.dumps(entries[i]),
            "relative": relative.get(i),
            "us": [t * 1e6 if isinstance(t := times[i], float) else None for times in measured],
            "reason": next((t for times in measured if isinstance(t := times[i], str)), None),
            "is_present": i == 0,
        }
        for i in order
    ]
    return rows, winner(relative, present=0)


def rerank(
    rules: Rules,
    operators: TritonOperators,
    device: torch.device,
    chosen: Sequence[Shape],
    rounds: int,
    limit: int,
) -> tuple[Rules, list[dict[str, Any]]]:
    """The rules with the best entries of this device, and every candidate's row."""
    architecture, rows = operators.on.architecture, []
    keys = sorted({(shape.head_bytes, shape.kind) for shape in chosen})
    for head_bytes, kind in keys:
        mine = [s for s in chosen if (s.head_bytes, s.kind) == (head_bytes, kind)]
        benches = [Bench(operators, device, shape) for shape in mine]
        present = _present(rules, architecture, kind, head_bytes)
        entries = nearest(candidates(architecture, kind, head_bytes), present, limit)
        found, best = rank(benches, entries, rounds)
        entry = entries[best]
        if kind == "decode" and head_bytes < 1024:
            entry = _with_quantised_stages(operators, device, mine[0], entry, rounds)
        rules = with_entry(rules, architecture, kind, head_bytes, entry)
        shapes_text = "; ".join(
            f"{s.spec.head_size} {s.spec.dtype} page {s.spec.page_tokens}" for s in mine
        )
        where = {"architecture": architecture, "kernel": kind, "head_bytes": head_bytes}
        rows += [where | {"shapes": shapes_text} | row for row in found]
    return rules, rows


def _present(rules: Rules, architecture: str, kind: Kind, head_bytes: int) -> Entry:
    known = rules.get(architecture) or rules[FALLBACK]
    entry: Entry = next(rule for rule in known if rule["head_bytes"] >= head_bytes)[kind]
    return entry


def _with_quantised_stages(
    operators: TritonOperators, device: torch.device, shape: Shape, entry: Entry, rounds: int
) -> Entry:
    """The entry with the stages that suit a cache of 8 bits."""
    spec = shape.spec
    quantised = AttentionSpec(
        spec.query_heads, spec.kv_heads, spec.head_size, spec.page_tokens, spec.dtype,
        cache_dtype=torch.float8_e4m3fn if operators.on.has_float8 else torch.int8,
    )  # fmt: skip
    plain = {key: value for key, value in entry.items() if key != "quantised_stages"}
    present = entry.get("quantised_stages", entry["stages"])
    stages = [present, *(n for n in BUFFERS if n != present)]
    bench = Bench(operators, device, Shape(shape.kind, quantised, shape.pairs))
    _, best = rank([bench], [plain | {"stages": n} for n in stages], rounds)
    return plain if stages[best] == plain["stages"] else plain | {"quantised_stages": stages[best]}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=["cuda"])
    parser.add_argument("--only", default="", metavar="WORD", help="prompt, decode or mixed")
    parser.add_argument("--candidates", type=int, default=40, help="at most, beside what is there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every candidate's row")
    parser.add_argument("--write", action="store_true", help=f"rewrite {RULES.name}")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("torch finds no GPU here: nothing was timed, and configs.json stays as it is")
        return 0
    device = torch.device(options.device)
    operators = TritonOperators(device)
    chosen = [shape for shape in shapes() if options.only in shape.kind]
    rules, rows = rerank(
        json.loads(RULES.read_text()), operators, device, chosen, ROUNDS, options.candidates
    )
    print_rows([{name: value for name, value in row.items() if name != "us"} for row in rows])
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    if options.write:
        RULES.write_text(text_of(rules))
    return 0


if __name__ == "__main__":
    sys.exit(main())
