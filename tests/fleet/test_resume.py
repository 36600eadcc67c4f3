"""A request goes on behind what its reader has as if it had never moved: the bundled model."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from hfx.config import CacheConfig, CostConfig, EngineConfig, ModelConfig
from hfx.engine import Delta, Engine, build_engine
from hfx.engine.engine import seed_of
from hfx.engine.sequence import Past
from hfx.fleet import Fleet
from hfx.models import load_words
from hfx.request import Request, Sampling

from .conftest import in_loop, kill, running, serving, until, whole

CONFIG = EngineConfig(
    model=ModelConfig(dtype="float32", max_model_len=256),
    cache=CacheConfig(num_blocks_override=16),
    cost=CostConfig(cost_profile="off"),
    threads=1,
    device="cpu",
)
SAMPLINGS = {
    "greedy": Sampling(max_tokens=12, temperature=0.0),
    "seeded": Sampling(max_tokens=12, temperature=0.9, seed=7, top_p=0.95),
    "unseeded": Sampling(max_tokens=12, temperature=0.9),
    "penalties": Sampling(
        max_tokens=12, temperature=0.0, frequency_penalty=1.5, presence_penalty=0.5
    ),
    "stop string": Sampling(max_tokens=32, temperature=0.0, stop=("Mount Fuji", "Alps", "city")),
    "least tokens": Sampling(max_tokens=12, min_tokens=10, temperature=0.0, stop_token_ids=(30,)),
    "logprobs": Sampling(max_tokens=8, temperature=0.0, logprobs=2),
}
PROMPT = "Naïve café, 日本語. The capital of Japan is"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made, _ = build_engine(CONFIG)
    yield made
    made.close()


def request_of(sampling: Sampling, id: str = "a") -> Request:
    words = load_words(CONFIG.model)
    return Request(id=id, prompt_token_ids=tuple(words.tokenizer.encode(PROMPT)), sampling=sampling)


def deltas_of(engine: Engine, pasts: list[Past], request: Request) -> list[list[Delta]]:
    """The news of the same request from several pasts, computed side by side."""
    found: dict[str, list[Delta]] = {str(n): [] for n in range(len(pasts))}
    for id, past in zip(found, pasts, strict=True):
        engine.add(replace(request, id=id), past=past)
    while engine.has_work:
        for delta in engine.step():
            found[delta.request_id].append(delta)
    return list(found.values())


@pytest.mark.parametrize("name", SAMPLINGS)
def test_text_and_tokens_are_the_same_wherever_it_was_cut(engine: Engine, name: str) -> None:
    request = request_of(SAMPLINGS[name])
    seed = seed_of(request.sampling.seed, 0, 5)
    (deltas,) = deltas_of(engine, [Past(seed)], request)
    tokens = tuple(t for delta in deltas for t in delta.token_ids)
    text = "".join(delta.text for delta in deltas)
    cuts = (1, 2, 5, len(tokens) - 1)

    resumed = deltas_of(engine, [Past(seed, tokens[:cut], 1.0, 2.0) for cut in cuts], request)

    for cut, rest in zip(cuts, resumed, strict=True):
        before = "".join(delta.text for delta in deltas[:cut])
        assert before + "".join(delta.text for delta in rest) == text
        assert tokens[:cut] + tuple(t for delta in rest for t in delta.token_ids) == tokens
        assert rest[-1].finish_reason == deltas[-1].finish_reason
        assert rest[-1].stop_reason == deltas[-1].stop_reason
        assert rest[-1].output_tokens == len(tokens)
        assert rest[-1].times.first_token_s == 1.0
        if name == "logprobs":
            assert [d.logprobs[0].token_id for d in rest if d.logprobs] == list(tokens[cut:])
    engine.audit()


def test_one_that_has_not_begun_is_taken_back_without_a_trace(engine: Engine) -> None:
    first, second = (request_of(SAMPLINGS["greedy"], id) for id in "ab")
    engine.add(first)
    engine.step()
    engine.add(second)

    assert engine.withdraw("b")
    assert not engine.withdraw("b") and not engine.withdraw("a")

    while engine.has_work:
        assert {delta.request_id for delta in engine.step()} <= {"a"}
    engine.audit()


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_real_models_replica_is_killed_and_nobody_sees_it(dtype: str) -> None:
    config = replace(CONFIG, model=replace(CONFIG.model, dtype=dtype))  # type: ignore[arg-type]

    async def test() -> None:
        async with running(2, engine=config) as fleet:
            expected = [await whole(fleet.generate(each)) for each in _requests()]
            cut = asyncio.ensure_future(_kill_soon(fleet))

            got = await asyncio.gather(*(whole(fleet.generate(each)) for each in _requests()))

            await cut
            assert fleet.desk.resumed >= 1
            for old, new in zip(expected, got, strict=True):
                assert new.output_tokens == old.output_tokens
                if dtype == "float32":
                    assert new.text == old.text
                    assert new.token_ids == old.token_ids
                else:  # a near tie may fall otherwise in another batch
                    assert new.token_ids[:4] == old.token_ids[:4]

    in_loop(test())


def _requests() -> list[Request]:
    names = ("greedy", "seeded", "penalties")
    return [
        request_of(replace(SAMPLINGS[name], max_tokens=12, ignore_eos=True), name) for name in names
    ]


async def _kill_soon(fleet: Fleet) -> None:
    await until(lambda: any(len(f.output) >= 4 for f in fleet.desk.flights.values()))
    kill(serving(fleet))
