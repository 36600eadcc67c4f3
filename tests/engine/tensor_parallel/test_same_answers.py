"""Several ranks, real processes over gloo, against one: the same logits, the same text.

In float32, where the order of a sum is all that differs.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hfx.config import CacheConfig, CostConfig, EngineConfig, ModelConfig, SchedulerConfig
from hfx.cost import load, save
from hfx.engine import LLM, Engine, StepBatch, build_engine, shared_sums
from hfx.engine.draw import Draw
from hfx.engine.equip import Equipment, equip
from hfx.engine.measure import measure
from hfx.engine.profiles import bounds_of, prior
from hfx.request import Mix, Request, Sampling

from .conftest import VOCABULARY

BLOCK = 16
PROMPTS = (
    "The capital of France is",
    "Once upon a time",
    "def fibonacci(n):",
    "The opposite of hot is cold. The opposite of up is",
)


def config(model: Path | None, ranks: int, **options: int) -> EngineConfig:
    return EngineConfig(
        model=ModelConfig(model=None if model is None else str(model), dtype="float32"),
        cache=CacheConfig(block_size=BLOCK, num_blocks_override=options.pop("blocks", 64)),
        scheduler=SchedulerConfig(max_num_seqs=8, max_num_batched_tokens=options.pop("tokens", 64)),
        cost=CostConfig(cost_profile="off"),
        threads=1,
        tensor_parallel_size=ranks,
    )


def logits_of(equipment: Equipment, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The logits of two steps: three prompts of different lengths, then a mix with decodes."""
    found: list[torch.Tensor] = []
    decoder, compute = equipment.model.decoder, equipment.model.decoder.logits

    def listen(hidden: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        found.append(compute(hidden, out).clone())
        return found[-1]

    monkeypatch.setattr(decoder, "logits", listen)
    for shape in (((1, 0), (17, 0), (40, 0)), ((1, 1), (13, 17), (1, 40))):
        equipment.executor.execute(batch(shape, equipment.model.vocabulary))
    return found


def batch(shape: tuple[tuple[int, int], ...], vocabulary: int) -> StepBatch:
    counts = np.array([count for count, _ in shape])
    starts = np.concatenate(([0], counts.cumsum())).astype(np.int32)
    tokens = int(starts[-1])
    return StepBatch(
        token_ids_T=np.random.default_rng(tokens).integers(0, vocabulary, tokens),
        query_starts=starts,
        context_lens_S=np.array([n + h for n, h in shape], np.int32),
        table_SC=np.arange(4 * len(shape), dtype=np.int32).reshape(-1, 4),
        sampled_rows_R=np.arange(tokens),
        draws=tuple(Draw(Sampling(temperature=0.0), "", row) for row in range(tokens)),
        mix=Mix.of(shape),
    )


@pytest.mark.parametrize(
    ("kv_heads", "tied", "ranks", "library"),
    [
        (2, False, 2, "gloo"),
        (2, False, 4, "shared memory"),
        (1, True, 3, "shared memory"),
    ],
)
def test_logits_are_those_of_one_rank(
    kv_heads: int,
    tied: bool,
    ranks: int,
    library: str,
    make_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    have_ended: Callable[[Iterable[int], float], bool],
) -> None:
    """Heads of their own, heads that ranks share, and 4 query heads cut 2, 1, 1."""
    folder = make_model(kv_heads=kv_heads, tied=tied)
    if library == "gloo":
        monkeypatch.setattr(shared_sums, "ORDERED", ())  # as on other processors
    alone, together = (equip(config(folder, n)) for n in (1, ranks))
    assert together.company is not None
    assert together.model.decoder.group.library == library

    expected = logits_of(alone, monkeypatch)
    found = logits_of(together, monkeypatch)
    together.company.close()

    for step, logits in zip(expected, found, strict=True):
        assert step.std() > 0.5  # else an absolute tolerance would prove little
        torch.testing.assert_close(logits, step, atol=1e-4, rtol=0)
    assert have_ended(together.company.pids, 0.0)


@pytest.fixture(scope="module")
def alone() -> LLM:
    return LLM(dtype="float32", block_size=BLOCK, num_blocks_override=64, threads=1)


@pytest.fixture(scope="module")
def pair() -> Iterator[Engine]:
    """The bundled model, whose 3 key-value heads are cut 2 and 1, with blocks for few requests."""
    engine, _ = build_engine(config(None, 2, blocks=7, tokens=24))
    yield engine
    engine.close()


def greedy() -> Sampling:
    return Sampling(temperature=0.0, max_tokens=14, ignore_eos=True, logprobs=1)


def test_text_is_that_of_one_rank_in_mixed_batches_with_prefix_hits_and_preemption(
    alone: LLM, pair: Engine
) -> None:
    expected = {c.prompt_token_ids: c for c in alone.generate(PROMPTS, greedy())}
    story = "A story that begins alike for all of them, and is longer than a block is. "
    expected |= {
        c.prompt_token_ids: c
        for c in alone.generate([story + prompt for prompt in PROMPTS[:3]], greedy())
    }

    for index, ids in enumerate(expected):
        pair.add(Request(id=str(index), prompt_token_ids=ids, sampling=greedy()))
    told: dict[str, list[int]] = {}
    likely: dict[str, list[float]] = {}
    while pair.has_work:
        for delta in pair.step():
            told.setdefault(delta.request_id, []).extend(delta.token_ids)
            likely.setdefault(delta.request_id, []).extend(x.logprob for x in delta.logprobs or ())
        pair.audit()

    for index, completion in enumerate(expected.values()):
        assert tuple(told[str(index)]) == completion.token_ids
        of_one = [each.logprob for each in completion.logprobs or ()]
        np.testing.assert_allclose(likely[str(index)], of_one, atol=1e-4)
    stats = pair.stats()
    assert stats.preemptions > 0
    assert stats.prefix_hit_tokens > 0


def test_a_seeded_draw_is_that_of_one_rank(alone: LLM, pair: Engine) -> None:
    sampling = Sampling(temperature=1.0, top_p=0.95, max_tokens=8, seed=5, ignore_eos=True)
    (completion,) = alone.generate("Once upon a time", sampling)

    pair.add(Request(id="r", prompt_token_ids=completion.prompt_token_ids, sampling=sampling))
    told = [token for _ in range(8) for delta in pair.step() for token in delta.token_ids]

    assert tuple(told) == completion.token_ids


def test_steps_are_measured_on_all_ranks_and_their_prices_kept_for_so_many(
    small_model: Path, tmp_path: Path
) -> None:
    equipment = equip(config(small_model, 2))
    assert equipment.company is not None
    first = prior(equipment)

    measured = measure(
        equipment.executor,
        equipment.pool,
        bounds_of(equipment, 1.0),
        guess=first,
        vocabulary=VOCABULARY,
        samplings=(Sampling(temperature=0.0),),
        budget_s=0.5,
    )
    save(first, tmp_path / "prices.json")
    equipment.company.close()

    assert len(measured) > 1
    assert first.key.tensor_parallel == 2
    assert first.links["ranks"].seconds(1 << 20) > 0
    talk_s = 2 * 2 * first.links["ranks"].latency_s  # two layers, two sums each
    assert first.decode.curve_s[0] > talk_s
    assert first.kv_bytes_per_token == 2 * 2 * 2 * 32 * 4  # of both ranks
    with pytest.raises(ValueError, match="tensor_parallel is 2, but 1 runs here"):
        load(tmp_path / "prices.json", tensor_parallel=1)
