"""The official client against the running server: what it asks, it gets, in the types it knows."""

import asyncio
from typing import Any

import httpx
import openai
import pytest

MODEL = "tiny"
CAPITAL: list[Any] = [{"role": "user", "content": "What is the capital of Japan?"}]
EMOJI: list[Any] = [{"role": "user", "content": "Write emoji: 😀🎉"}]


def test_a_question_gets_a_sensible_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=CAPITAL, temperature=0)

    choice = answer.choices[0]
    assert "Tokyo" in (choice.message.content or "")
    assert (choice.message.role, choice.finish_reason, choice.index) == ("assistant", "stop", 0)
    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    assert answer.id.startswith("chatcmpl-")
    assert answer.system_fingerprint
    assert answer.usage
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_says_the_same_in_pieces(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": MODEL, "messages": CAPITAL, "temperature": 0}
    whole = client.chat.completions.create(**options)

    chunks = list(
        client.chat.completions.create(
            **options, stream=True, stream_options={"include_usage": True}
        )
    )

    *pieces, end = chunks
    deltas = [piece.choices[0].delta for piece in pieces]
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert [delta.role for delta in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    reasons = [piece.choices[0].finish_reason for piece in pieces]
    assert reasons == [None] * (len(pieces) - 1) + ["stop"]
    assert (end.choices, end.usage and end.usage.completion_tokens) == (
        [],
        whole.usage and whole.usage.completion_tokens,
    )


def test_no_chunk_holds_half_a_character(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=EMOJI, temperature=0, max_tokens=24, stream=True
    )

    texts = [chunk.choices[0].delta.content or "" for chunk in stream]

    assert any(ord(character) > 0xFFFF for text in texts for character in text)
    whole_texts = texts[:-2]  # the output may be cut within a character, and then shows it
    assert not any("\ufffd" in text for text in whole_texts)


def test_chat_log_probabilities_are_of_the_tokens_that_were_sent(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=CAPITAL, temperature=0, max_tokens=6, logprobs=True, top_logprobs=3
    )

    choice = answer.choices[0]
    assert choice.logprobs and choice.logprobs.content and answer.usage
    entries = choice.logprobs.content
    assert len(entries) == answer.usage.completion_tokens
    assert b"".join(bytes(entry.bytes or []) for entry in entries).decode() == (
        choice.message.content
    )
    for entry in entries:
        ranked = [top.logprob for top in entry.top_logprobs]
        assert len(ranked) == 3
        assert ranked == sorted(ranked, reverse=True)
        assert entry.logprob == ranked[0] <= 0  # greedy takes the likeliest


def test_completion_log_probabilities_have_offsets_into_the_text(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="The sky is", temperature=0, max_tokens=5, logprobs=2
    )

    choice = answer.choices[0]
    likely = choice.logprobs
    assert likely and likely.tokens and likely.text_offset and likely.top_logprobs
    assert "".join(likely.tokens) == choice.text
    for token, offset, top in zip(
        likely.tokens, likely.text_offset, likely.top_logprobs, strict=True
    ):
        assert choice.text[offset : offset + len(token)] == token
        assert token in top


def test_a_completion_without_max_tokens_has_at_most_16_and_says_why_it_ended(
    client: openai.OpenAI,
) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="Once upon a time", extra_body={"ignore_eos": True}
    )

    assert answer.usage and answer.usage.completion_tokens == 16
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_output_and_is_not_shown(
    client: openai.OpenAI, stream: bool
) -> None:
    options: dict[str, Any] = {"model": MODEL, "messages": CAPITAL, "temperature": 0}

    if stream:
        chunks = list(client.chat.completions.create(**options, stop="Tok", stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        last = chunks[-1].choices[0]
    else:
        last = client.chat.completions.create(**options, stop="Tok").choices[0]
        text = last.message.content or ""

    assert text == "The capital of Japan is "
    assert (last.finish_reason, last.model_extra) == ("stop", {"stop_reason": "Tok"})


def test_the_stop_string_is_shown_if_asked_for(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=CAPITAL,
        temperature=0,
        stop=["Tok"],
        extra_body={"include_stop_str_in_output": True},
    )

    assert answer.choices[0].message.content == "The capital of Japan is Tok"


def test_the_same_seed_gives_the_same_texts_and_choices_differ(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"prompt": "My favourite", "max_tokens": 8, "temperature": 1.5}

    first, second = (
        client.completions.create(model=MODEL, **options, seed=7, n=3) for _ in range(2)
    )

    texts = [choice.text for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert texts == [choice.text for choice in second.choices]
    assert len(set(texts)) > 1
    assert first.usage and first.usage.prompt_tokens < 8  # counted once, not three times
    assert first.usage.completion_tokens == 24


def test_streamed_choices_are_told_apart_by_their_index(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"prompt": ["My cat", "My dog"], "max_tokens": 5, "temperature": 0}
    whole = client.completions.create(model=MODEL, **options, n=2)

    texts = ["", "", "", ""]
    ends = 0
    for chunk in client.completions.create(model=MODEL, **options, n=2, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
        ends += chunk.choices[0].finish_reason is not None

    assert texts == [choice.text for choice in whole.choices]
    assert texts[0] == texts[1] != texts[2] == texts[3]
    assert ends == 4


def test_prompts_may_be_token_ids_and_may_be_echoed(client: openai.OpenAI) -> None:
    texts = ["The sun", "The moon"]
    tokens = [tokenized(client, text) for text in texts]
    options: dict[str, Any] = {"max_tokens": 4, "temperature": 0, "echo": True}

    by_text = client.completions.create(model=MODEL, prompt=texts, **options)
    by_tokens = client.completions.create(model=MODEL, prompt=tokens, **options)

    assert [choice.text for choice in by_text.choices] == [c.text for c in by_tokens.choices]
    assert all(
        choice.text.startswith(text) for choice, text in zip(by_text.choices, texts, strict=True)
    )


def tokenized(client: openai.OpenAI, text: str) -> list[int]:
    url = str(client.base_url).removesuffix("v1/") + "tokenize"
    tokens: list[int] = httpx.post(url, json={"prompt": text}, timeout=30).json()["tokens"]
    return tokens


def test_a_repeated_prefix_is_served_from_the_cache_and_salts_keep_apart(
    client: openai.OpenAI,
) -> None:
    def cached(salt: str) -> int:
        answer = client.completions.create(
            model=MODEL,
            prompt="count: " + " ".join(map(str, range(80))),
            max_tokens=1,
            extra_body={"cache_salt": salt},
        )
        assert answer.usage and answer.usage.prompt_tokens_details
        return answer.usage.prompt_tokens_details.cached_tokens or 0

    counts = [cached("a"), cached("a"), cached("b")]

    assert counts[0] == counts[2] == 0
    assert counts[1] >= 64


def test_token_ids_are_returned_when_asked_for(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=CAPITAL, max_tokens=3, extra_body={"return_token_ids": True}
    )

    assert answer.model_extra and answer.choices[0].model_extra and answer.usage
    assert len(answer.model_extra["prompt_token_ids"]) == answer.usage.prompt_tokens
    assert len(answer.choices[0].model_extra["token_ids"]) == answer.usage.completion_tokens


def test_the_last_message_can_be_continued(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[*CAPITAL, {"role": "assistant", "content": "The capital of Japan is"}],
        temperature=0,
        max_tokens=4,
        extra_body={"continue_final_message": True, "add_generation_prompt": False},
    )

    assert (answer.choices[0].message.content or "").startswith(" Tokyo")


def test_a_request_id_becomes_part_of_the_answers_id(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=CAPITAL,
        max_tokens=1,
        service_tier="auto",
        extra_headers={"X-Request-Id": "from-header"},
    )

    assert answer.id == "chatcmpl-from-header"
    assert answer.service_tier == "default"


def test_models_are_listed_and_found_by_each_of_their_names(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "team/tiny"]
    card = client.models.retrieve("team/tiny")
    assert card.owned_by == "hfx"
    assert card.model_extra and card.model_extra["max_model_len"] == 1024
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("huge")


def test_errors_arrive_as_the_clients_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt", messages=CAPITAL)
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model=MODEL, messages=CAPITAL, temperature=-1)

    assert missing.value.code == "model_not_found"
    assert bad.value.param == "temperature"


def test_concurrent_streams_each_get_their_own_text(server: Any) -> None:
    prompts = [f"{word} is" for word in ("Water", "Fire", "Earth", "Wind", "Gold", "Snow")]

    async def text(client: openai.AsyncOpenAI, prompt: str) -> str:
        stream = await client.completions.create(
            model=MODEL, prompt=prompt, max_tokens=8, temperature=0, stream=True, echo=True
        )
        return "".join([chunk.choices[0].text async for chunk in stream])

    async def texts() -> tuple[list[str], list[str]]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            together = await asyncio.gather(*(text(client, prompt) for prompt in prompts))
            alone = [await text(client, prompt) for prompt in prompts[:2]]
            return together, alone

    together, alone = asyncio.run(texts())

    for prompt, one in zip(prompts, together, strict=True):
        assert one.startswith(prompt)
        assert len(one) > len(prompt)
    # Batches of other sizes round differently, and a near tie may then fall the other way.
    assert [one[:12] for one in together[:2]] == [one[:12] for one in alone]
