"""Forms: tokens and texts as OpenAI's clients read them."""

from typing import Any

import orjson
import pytest

from hfx.engine import Delta, RequestTimes, TokenLogprob
from hfx.request import FinishReason
from hfx.serve.form import ChatForm, Choice, Chunks, CompletionForm, Head, usage


class Words:
    """A vocabulary of three words."""

    def token_text(self, token_id: int) -> str:
        return ("a", "bé", "!")[token_id]

    def token_bytes(self, token_id: int) -> bytes:
        return self.token_text(token_id).encode()


def delta(text: str = "", *token_ids: int, **fields: Any) -> Delta:
    known: dict[str, Any] = {
        "request_id": "r",
        "token_ids": token_ids,
        "text": text,
        "logprobs": None,
        "finish_reason": None,
        "stop_reason": None,
        "prompt_tokens": 3,
        "output_tokens": len(token_ids),
        "cached_tokens": 0,
        "times": RequestTimes(0.0),
    }
    return Delta(**known | fields)


LIKELY = (
    TokenLogprob(1, -0.5, 1, ((1, -0.5), (0, float("-inf")))),
    TokenLogprob(2, -1.5, 4, ((0, -0.1),)),
)
END = delta("bé!", 1, 2, logprobs=LIKELY, finish_reason=FinishReason.STOP, stop_reason="\n")


def choice() -> Choice:
    made = Choice(0, (7, 8), "echo ")
    made.add(END)
    return made


def test_a_chat_choice_has_a_message_and_one_likelihood_per_token() -> None:
    form = ChatForm(Words(), logprobs=True, token_ids=True)

    whole = form.whole(choice())

    assert whole["message"] == {"role": "assistant", "content": "echo bé!", "refusal": None}
    assert (whole["finish_reason"], whole["stop_reason"]) == ("stop", "\n")
    first, second = whole["logprobs"]["content"]
    assert (first["token"], first["bytes"]) == ("bé", [98, 195, 169])
    assert [top["logprob"] for top in first["top_logprobs"]] == [-0.5, -9999.0]
    assert [top["token"] for top in second["top_logprobs"]] == ["a"]
    assert whole["token_ids"] == [1, 2]


def test_a_text_choice_has_parallel_lists_with_offsets_in_characters() -> None:
    form = CompletionForm(Words(), logprobs=True, token_ids=False)

    whole = form.whole(choice())

    assert whole["text"] == "echo bé!"
    assert whole["logprobs"] == {
        "tokens": ["bé", "!"],
        "token_logprobs": [-0.5, -1.5],
        "top_logprobs": [{"bé": -0.5, "a": -9999.0}, {"a": -0.1, "!": -1.5}],
        "text_offset": [0, 2],
    }


def test_offsets_go_on_from_chunk_to_chunk_of_the_same_choice() -> None:
    form = CompletionForm(Words(), logprobs=True, token_ids=False)

    pieces = [form.piece(index, delta("x", 1, logprobs=LIKELY[:1])) for index in (0, 1, 0)]

    assert [piece and piece["logprobs"]["text_offset"] for piece in pieces] == [[0], [0], [2]]


@pytest.mark.parametrize("form", [ChatForm, CompletionForm])
def test_a_token_without_text_yet_is_shown_only_to_those_who_read_tokens(form: Any) -> None:
    half = delta("", 1, logprobs=LIKELY[:1])

    assert form(Words(), logprobs=False, token_ids=False).piece(0, half) is None
    assert form(Words(), logprobs=True, token_ids=False).piece(0, half) is not None
    assert form(Words(), logprobs=False, token_ids=True).piece(0, half)["token_ids"] == (1,)


def test_a_chat_stream_opens_with_the_role_and_closes_with_an_empty_delta() -> None:
    form = ChatForm(Words(), logprobs=False, token_ids=False)

    opening, closing = form.opening(1, "", (7,)), form.closing(1, END)

    assert opening is not None
    assert opening["delta"] == {"role": "assistant", "content": ""}
    assert opening["finish_reason"] is None
    assert (closing["delta"], closing["finish_reason"], closing["index"]) == ({}, "stop", 1)


def test_a_text_stream_opens_with_the_echo_if_there_is_one() -> None:
    form = CompletionForm(Words(), logprobs=False, token_ids=False)

    assert form.opening(0, "", (7,)) is None
    assert form.opening(0, "echo", (7,)) == {
        "index": 0,
        "text": "echo",
        "logprobs": None,
        "finish_reason": None,
    }


@pytest.mark.parametrize("with_usage", [False, True])
def test_chunks_are_server_sent_events_of_json(with_usage: bool) -> None:
    head = Head("id", 'a "name"', 5, "fp", tier="default", usage=with_usage)
    chunks = Chunks(head, "kind")

    events = [
        chunks.choice({"index": 0}),
        chunks.choice({"index": 0}, {"prompt_token_ids": [1]}),
        chunks.usage(usage(3, 1, 2)),
    ]

    documents = [orjson.loads(event.removeprefix(b"data: ")) for event in events]
    assert all(event.endswith(b"\n\n") and event.count(b"\n") == 2 for event in events)
    assert all(document["model"] == 'a "name"' for document in documents)
    assert ("usage" in documents[0]) == ("usage" in documents[1]) == with_usage
    assert documents[1]["prompt_token_ids"] == [1]
    assert documents[2]["choices"] == []
    assert documents[2]["usage"]["total_tokens"] == 5
    assert documents[2]["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}
