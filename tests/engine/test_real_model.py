"""The engine on the bundled model, in float32 and greedy: the text of a request does not depend on
what it is batched with, on the prefix cache, or on being preempted."""

import asyncio
import random
from collections.abc import Callable, Iterator

import pytest
import torch

from hfx.cache import BlockPool
from hfx.config import SchedulerConfig
from hfx.engine import LLM, AsyncEngine, Completion, Delta, Engine
from hfx.engine.executor import ModelExecutor
from hfx.request import FinishReason, Objective, Request, Sampling
from hfx.scheduler import FirstComeFirstServed

BLOCK_TOKENS = 16
OUTPUT_TOKENS = 10
PROMPTS = (
    "The capital of France is",
    "Once upon a time",
    "def fibonacci(n):",
    "The opposite of hot is cold. The opposite of up is",
)
MakeEngine = Callable[..., Engine]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    """In one thread, so that the tests' time doesn't depend on what else this machine does."""
    threads = torch.get_num_threads()
    yield LLM(dtype="float32", block_size=BLOCK_TOKENS, num_blocks_override=64, threads=1)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def engine_with(llm: LLM) -> MakeEngine:
    """Another engine over the same weights, with a pool of its own."""
    model = llm.model

    def make(blocks: int, max_model_len: int = 128, step_tokens: int = 64) -> Engine:
        return Engine(
            ModelExecutor(model.decoder, blocks, BLOCK_TOKENS),
            FirstComeFirstServed(max_step_tokens=step_tokens, max_running=8),
            BlockPool(blocks, BLOCK_TOKENS),
            model.tokenizer.decode,
            vocabulary=model.spec.vocabulary,
            max_model_len=max_model_len,
            eos_token_ids=model.generation.eos_token_ids,
        )

    return make


@pytest.fixture(scope="module")
def one_by_one(llm: LLM) -> list[Completion]:
    return [llm.generate(prompt, greedy())[0] for prompt in PROMPTS]


def greedy(max_tokens: int = OUTPUT_TOKENS) -> Sampling:
    return Sampling(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)


def run(engine: Engine, requests: list[Request]) -> dict[str, Delta]:
    for request in requests:
        engine.add(request)
    news: dict[str, Delta] = {}
    while engine.has_work:
        for delta in engine.step():
            earlier = news.get(delta.request_id)
            news[delta.request_id] = earlier.followed_by(delta) if earlier else delta
        engine.audit()
    return news


def test_requests_in_one_batch_get_the_text_that_each_gets_alone(
    llm: LLM, engine_with: MakeEngine, one_by_one: list[Completion]
) -> None:
    engine = engine_with(blocks=64, step_tokens=16)  # prompts are cut and mixed with decodes
    requests = [
        Request(id=str(i), prompt_token_ids=c.prompt_token_ids, sampling=greedy())
        for i, c in enumerate(one_by_one)
    ]

    news = run(engine, requests)

    assert [news[str(i)].text for i in range(len(PROMPTS))] == [c.text for c in one_by_one]
    assert "Paris" in one_by_one[0].text


def test_a_prefix_found_in_the_cache_gives_the_text_of_a_cold_one(
    llm: LLM, engine_with: MakeEngine
) -> None:
    tokens = tuple(llm.model.tokenizer.encode("One two three four five. " * 8))
    engine = engine_with(blocks=32)
    requests = [Request(id=id, prompt_token_ids=tokens, sampling=greedy()) for id in ("a", "b")]

    cold, warm = (run(engine, [request])[request.id] for request in requests)

    assert (cold.cached_tokens, warm.cached_tokens) == (0, (len(tokens) - 1) // 16 * 16)
    assert warm.token_ids == cold.token_ids


def test_preempted_requests_get_the_text_that_they_get_undisturbed(
    llm: LLM, engine_with: MakeEngine
) -> None:
    requests = [
        Request(
            id=str(i),
            prompt_token_ids=tuple(llm.model.tokenizer.encode(PROMPTS[i] + " so" * 20)),
            sampling=greedy(20),
        )
        for i in range(3)
    ]

    undisturbed = run(engine_with(blocks=32, max_model_len=64), requests)
    tight = engine_with(blocks=6, max_model_len=64)
    disturbed = run(tight, requests)

    assert tight.stats().preemptions > 0
    for request in requests:
        assert disturbed[request.id].token_ids == undisturbed[request.id].token_ids


def test_a_seeded_request_gets_the_same_text_whatever_it_is_batched_with(
    llm: LLM, engine_with: MakeEngine
) -> None:
    tokens = tuple(llm.model.tokenizer.encode(PROMPTS[1]))
    sampling = Sampling(temperature=1.0, top_p=0.95, seed=7, max_tokens=OUTPUT_TOKENS)
    seeded = Request(id="seeded", prompt_token_ids=tokens, sampling=sampling)
    others = [
        Request(id=str(i), prompt_token_ids=(i + 1, *tokens), sampling=Sampling(max_tokens=6))
        for i in range(3)
    ]

    alone = run(engine_with(blocks=32), [seeded])["seeded"]
    batched = run(engine_with(blocks=32), [*others, seeded])["seeded"]

    assert batched.token_ids == alone.token_ids


def test_offline_answers_come_in_order_with_samples_next_to_each_other(
    llm: LLM, one_by_one: list[Completion]
) -> None:
    seeded = Sampling(temperature=1.0, seed=3, max_tokens=6)

    answers = llm.generate(PROMPTS[:2], seeded, n=2)
    again = llm.generate(PROMPTS[1], seeded, n=2)

    assert [(a.prompt_token_ids, a.index) for a in answers] == [
        (one_by_one[0].prompt_token_ids, 0),
        (one_by_one[0].prompt_token_ids, 1),
        (one_by_one[1].prompt_token_ids, 0),
        (one_by_one[1].prompt_token_ids, 1),
    ]
    assert [a.token_ids for a in again] == [a.token_ids for a in answers[2:]]
    assert answers[0].token_ids != answers[1].token_ids


def test_chat_answers_a_question_and_ends_by_itself(llm: LLM) -> None:
    question = [{"role": "user", "content": "What is the capital of Italy? Answer in one word."}]

    [answer] = llm.chat(question, Sampling(temperature=0.0, max_tokens=40))

    assert "Rome" in answer.text
    assert answer.finish_reason is FinishReason.STOP
    assert "<|im_end|>" not in answer.text


def test_logprobs_come_with_every_token_and_the_greedy_one_ranks_first(llm: LLM) -> None:
    sampling = Sampling(temperature=0.0, max_tokens=4, logprobs=2)

    [answer] = llm.generate(PROMPTS[0], sampling)

    assert answer.logprobs is not None and len(answer.logprobs) == 4
    for token_id, told in zip(answer.token_ids, answer.logprobs, strict=True):
        assert (told.token_id, told.rank, told.top[0][0]) == (token_id, 1, token_id)
        assert told.logprob == told.top[0][1] >= told.top[1][1]


def test_an_objective_for_all_prompts_or_each_comes_back_with_its_verdict(llm: LLM) -> None:
    easy, hard = Objective(ttft_s=600.0, tpot_s=60.0), Objective(ttft_s=1e-6)

    both = llm.generate(["One", "Two"], greedy(3), objective=easy)
    each = llm.generate(["One", "Two"], greedy(3), objective=[easy, hard])
    (plain,) = llm.generate("One", greedy(3))

    assert [answer.verdict and answer.verdict.is_met for answer in both] == [True, True]
    assert [answer.verdict and answer.verdict.is_met for answer in each] == [True, False]
    assert plain.verdict is None
    assert [answer.token_ids for answer in both] == [answer.token_ids for answer in each]


def test_a_hard_deadline_ends_an_offline_answer(llm: LLM) -> None:
    promise = Objective(deadline_s=0.25, on_miss="refuse")

    (answer,) = llm.generate("Count:", greedy(900), objective=promise)

    assert answer.finish_reason is FinishReason.EXPIRED
    assert len(answer.token_ids) < 900
    assert answer.verdict is not None and not answer.verdict.is_met


def test_nothing_is_computed_if_one_of_the_prompts_is_too_long(llm: LLM) -> None:
    with pytest.raises(ValueError, match=f"context of {llm.max_model_len} tokens"):
        llm.generate(["short", [1] * llm.max_model_len], greedy())

    assert llm.generate("short", greedy(1))[0].finish_reason is FinishReason.LENGTH


def test_impossible_offline_settings_are_named(llm: LLM) -> None:
    with pytest.raises(TypeError, match="no option num_blocks"):
        LLM(num_blocks=5)
    with pytest.raises(ValueError, match="n is 0"):
        llm.generate("x", n=0)
    with pytest.raises(ValueError, match="2 samplings for 1 prompts"):
        llm.generate(["x"], [greedy(), greedy()])
    with pytest.raises(ValueError, match="3 objectives for 1 prompts"):
        llm.generate(["x"], objective=[Objective()] * 3)


def test_a_soak_of_mixed_requests_with_random_aborts_ends_with_every_block_free(
    llm: LLM, engine_with: MakeEngine
) -> None:
    chance = random.Random(1)
    engine = engine_with(blocks=14)
    serving = AsyncEngine(engine, llm.model, SchedulerConfig(max_num_seqs=8))

    def request(index: int) -> Request:
        text = chance.choice(PROMPTS) + " and" * chance.randrange(40)
        sampling = Sampling(
            max_tokens=chance.randrange(1, 16),
            temperature=chance.choice([0.0, 1.0]),
            top_p=chance.choice([1.0, 0.9]),
            frequency_penalty=chance.choice([0.0, 0.5]),
            stop=chance.choice([(), (".",)]),
            logprobs=chance.choice([None, 2]),
        )
        ids = tuple(llm.model.tokenizer.encode(text))
        return Request(id=str(index), prompt_token_ids=ids, sampling=sampling)

    async def client(index: int) -> FinishReason | None:
        await asyncio.sleep(chance.random())
        stream = serving.generate(request(index))
        patience = chance.choice([None, None, 1, 4])
        reason, count = None, 0
        async for delta in stream:
            reason, count = delta.finish_reason, count + len(delta.token_ids)
            if patience is not None and count >= patience:
                stream.close()
        return reason

    async def soak() -> None:
        async with asyncio.timeout(120):
            reasons = await asyncio.gather(*(client(index) for index in range(30)))
            await serving.drain(60)
        ended = [reason for reason in reasons if reason is not None]
        assert len(ended) >= 10
        assert set(ended) <= {FinishReason.STOP, FinishReason.LENGTH}

    asyncio.run(soak())
    serving.close()

    engine.audit()
    assert not engine.has_work
    assert engine.stats().free_blocks == engine.stats().total_blocks == 14
