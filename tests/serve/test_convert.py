"""Conversion: what a body asks for becomes requests, or a 400 that names field, value and limit."""

from collections.abc import Callable
from typing import Any

import pytest

from hfx.models.generation import GenerationDefaults
from hfx.serve import convert
from hfx.serve.body import parse
from hfx.serve.convert import Served
from hfx.serve.errors import ApiError
from hfx.serve.promises import promise
from hfx.serve.protocol import (
    Body,
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    GenerationBody,
)
from hfx.serve.tiers import offered

HELLO = {"messages": [{"role": "user", "content": "hello"}]}


def served(**defaults: Any) -> Served:
    return Served(("tiny", "alias"), 100, 50, GenerationDefaults(**defaults))


def chat(**fields: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest.model_validate(HELLO | fields)


def completion(**fields: Any) -> CompletionRequest:
    return CompletionRequest.model_validate({"prompt": "hello"} | fields)


def refusal(action: Callable[[], object]) -> ApiError:
    with pytest.raises(ApiError) as error:
        action()
    return error.value


def test_a_chat_without_max_tokens_gets_the_rest_of_the_context() -> None:
    assert convert.sampling(chat(), served(), 40).max_tokens == 60


def test_a_chat_without_max_tokens_gets_what_the_model_s_makers_advise() -> None:
    advised = served(max_new_tokens=20)

    assert convert.sampling(chat(), advised, 40).max_tokens == 20
    assert convert.sampling(chat(max_tokens=30), advised, 40).max_tokens == 30
    assert convert.sampling(chat(), advised, 90).max_tokens == 10


def test_a_completion_without_max_tokens_gets_16() -> None:
    assert convert.sampling(completion(), served(), 40).max_tokens == 16
    assert convert.sampling(completion(), served(), 90).max_tokens == 10


def test_max_completion_tokens_wins_over_max_tokens() -> None:
    body = chat(max_tokens=3, max_completion_tokens=5)

    assert convert.sampling(body, served(), 1).max_tokens == 5


def test_the_models_defaults_lie_between_the_requests_values_and_neutral_ones() -> None:
    own = served(temperature=0.25, top_p=0.5, top_k=7, repetition_penalty=1.5)

    plain = convert.sampling(chat(), own, 1)
    asked = convert.sampling(chat(temperature=0, top_p=1, top_k=-1, repetition_penalty=1), own, 1)
    neutral = convert.sampling(chat(), served(), 1)

    assert (plain.temperature, plain.top_p, plain.top_k) == (0.25, 0.5, 7)
    assert plain.repetition_penalty == 1.5
    assert (asked.temperature, asked.top_p, asked.top_k, asked.repetition_penalty) == (0, 1, 0, 1)
    assert (neutral.temperature, neutral.top_p, neutral.top_k) == (1, 1, 0)


def test_log_probabilities_are_a_flag_and_a_number_in_chat_and_one_number_in_completions() -> None:
    assert convert.sampling(chat(), served(), 1).logprobs is None
    assert convert.sampling(chat(logprobs=True), served(), 1).logprobs == 0
    assert convert.sampling(chat(logprobs=True, top_logprobs=3), served(), 1).logprobs == 3
    assert convert.sampling(completion(logprobs=0), served(), 1).logprobs == 0
    assert convert.sampling(completion(), served(), 1).logprobs is None


def test_stop_may_be_one_string_or_several_or_null() -> None:
    assert convert.sampling(chat(stop="a"), served(), 1).stop == ("a",)
    assert convert.sampling(chat(stop=["a", "b"]), served(), 1).stop == ("a", "b")
    assert convert.sampling(chat(stop=None), served(), 1).stop == ()


def test_requests_are_prompt_major_and_seeds_differ_between_choices_only() -> None:
    body = completion(prompt=[[1], [2]], n=2, seed=9, priority=-3, cache_salt="s")

    made = convert.requests(
        body,
        body.prompt,
        served(),
        promise=promise(body, {}, offered(())),
        request_id="x",
        arrival_s=4.0,
    )

    assert [request.id for request in made] == ["x-0", "x-1", "x-2", "x-3"]
    assert [request.prompt_token_ids for request in made] == [(1,), (1,), (2,), (2,)]
    assert [request.sampling.seed for request in made] == [9, 10, 9, 10]
    assert {(request.priority, request.cache_salt) for request in made} == {(-3, "s")}


def test_the_largest_seed_wraps_around() -> None:
    body = completion(prompt=[1], n=2, seed=2**63 - 1)

    made = convert.requests(
        body,
        body.prompt,
        served(),
        promise=promise(body, {}, offered(())),
        request_id="x",
        arrival_s=0.0,
    )

    assert [request.sampling.seed for request in made] == [2**63 - 1, -(2**63)]


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (chat(max_tokens=61), "max_tokens", "is 61: the prompt has 40 tokens"),
        (chat(max_completion_tokens=10**12), "max_completion_tokens", "at most 60 are possible"),
        (chat(max_tokens=5, min_tokens=6), "min_tokens", "is 6: it must be 0 to 5 (max_tokens)"),
        (chat(stop_token_ids=[1, 50]), "stop_token_ids", "token id 50: the model's ids go from 0"),
        (chat(stop_token_ids=[-1]), "stop_token_ids", "token id -1"),
        (chat(logit_bias={"50": 1}), "logit_bias", "token id 50"),
    ],
)
def test_values_that_the_model_can_not_have_are_refused(
    body: GenerationBody, param: str, message: str
) -> None:
    error = refusal(lambda: convert.sampling(body, served(), 40))

    assert (error.status, error.param) == (400, param)
    assert message in error.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"guided_json": {"type": "object"}}, "guided_json"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"top_logprobs": 2}, "top_logprobs"),
    ],
)
def test_what_would_be_ignored_at_the_clients_cost_is_refused(
    fields: dict[str, Any], param: str
) -> None:
    error = refusal(lambda: convert.check_supported(chat(**fields)))

    assert (error.status, error.param) == (400, param)
    assert param in error.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"echo": True, "logprobs": 1}, "logprobs"),
    ],
)
def test_completions_refuse_what_they_lack(fields: dict[str, Any], param: str) -> None:
    assert refusal(lambda: convert.check_supported(completion(**fields))).param == param


def test_harmless_values_of_unsupported_fields_and_unknown_fields_pass() -> None:
    convert.check_supported(
        chat(
            tools=[],
            tool_choice="none",
            response_format={"type": "text"},
            parallel_tool_calls=True,
            metadata={"a": "b"},
            store=False,
            no_such_field=[1],
            user="u",
        )
    )
    convert.check_supported(completion(best_of=2, n=2, suffix=None))


def test_a_model_that_is_not_served_is_a_404_that_names_those_that_are() -> None:
    error = refusal(lambda: convert.check_model("gpt", served()))

    assert (error.status, error.code) == (404, "model_not_found")
    assert "'gpt'" in error.message
    assert "tiny, alias" in error.message
    assert convert.check_model(None, served()) == "tiny"
    assert convert.check_model("alias", served()) == "alias"


def test_text_parts_are_joined_and_developers_speak_as_the_system() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        ChatMessage(role="developer", content="be brief"),
        ChatMessage(role="user", content=parts, name="ann"),
    ]

    assert convert.conversation(messages) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "ab", "name": "ann"},
    ]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user"}, "messages.0.content"),
        ({"role": "user", "content": []}, "messages.0.content"),
        ({"role": "user", "content": 3}, "messages.0.content"),
        ({"role": "user", "content": ["x"]}, "messages.0.content.0"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "messages.0.content.0.type",
        ),
        ({"role": "user", "content": [{"type": "text"}]}, "messages.0.content.0.text"),
        ({"role": "tool", "content": "x"}, "messages.0.role"),
        ({"role": "assistant", "content": "x", "tool_calls": [{}]}, "messages.0.tool_calls"),
    ],
)
def test_messages_that_are_not_text_are_refused_where_they_go_wrong(
    message: dict[str, Any], param: str
) -> None:
    turn = ChatMessage.model_validate(message)

    error = refusal(lambda: convert.conversation([turn]))

    assert (error.status, error.param) == (400, param)


class Bracketed:
    """A template that can be read at a glance, and refuses a system turn."""

    def render(
        self, messages: list[dict[str, Any]], add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        if messages[0]["role"] == "system":
            raise ValueError("no system turns, please")
        text = "".join(f"[{turn['role']}:{turn['content']}]" for turn in messages)
        return text + variables.get("mark", "") + ("[assistant:" if add_generation_prompt else "")


def render(content: str = "hi", role: str = "user", **options: Any) -> str:
    options = {"opens": None, "continues": None, "variables": None} | options
    return convert.render(Bracketed(), [{"role": role, "content": content}], **options)


def test_the_assistants_turn_is_opened_unless_the_last_message_goes_on() -> None:
    assert render() == "[user:hi][assistant:"
    assert render(opens=False) == "[user:hi]"
    assert render(role="assistant", continues=True) == "[assistant:hi"
    assert render(variables={"mark": "!"}) == "[user:hi]![assistant:"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"opens": True, "continues": True}, "continue_final_message"),
        ({"variables": {"messages": []}}, "chat_template_kwargs.messages"),
        ({"role": "system"}, "messages"),
        ({"content": "", "continues": True}, "messages"),
    ],
)
def test_conversations_that_can_not_be_rendered_are_refused(
    options: dict[str, Any], param: str
) -> None:
    assert refusal(lambda: render(**options)).param == param


def test_a_templates_own_words_reach_the_client() -> None:
    assert "no system turns, please" in refusal(lambda: render(role="system")).message


def test_a_model_without_a_template_says_what_to_do() -> None:
    error = refusal(lambda: convert.render(None, [], opens=None, continues=None, variables=None))

    assert "/v1/completions" in error.message


def test_prompts_are_cut_from_the_left_only_when_asked() -> None:
    tokens = [1, 2, 3, 4]

    assert convert.fitted(tokens, served(), field="prompt", keep=None) == (1, 2, 3, 4)
    assert convert.fitted(tokens, served(), field="prompt", keep=2) == (3, 4)
    assert convert.fitted(tokens, served(), field="prompt", keep=9) == (1, 2, 3, 4)
    assert len(convert.fitted([1] * 500, served(), field="prompt", keep=-1)) == 99


@pytest.mark.parametrize(
    ("tokens", "keep", "message"),
    [
        (
            [1] * 100,
            None,
            "prompt has 100 tokens: the model's context is 100 tokens",
        ),
        ([], None, "prompt is empty"),
        ([1], 0, "prompt is empty"),
        ([50], None, "prompt has token id 50"),
        ([-1], None, "prompt has token id -1"),
    ],
)
def test_prompts_that_do_not_fit_name_their_size_and_the_limit(
    tokens: list[int], keep: int | None, message: str
) -> None:
    error = refusal(lambda: convert.fitted(tokens, served(), field="prompt", keep=keep))

    assert error.status == 400
    assert message in error.message


@pytest.mark.parametrize(
    ("model", "raw", "param", "message"),
    [
        (ChatCompletionRequest, b"{}", "messages", "messages is missing: it is required"),
        (ChatCompletionRequest, b'{"messages": []}', "messages", "must have at least 1 item"),
        (ChatCompletionRequest, b'{"a": nope}', None, "not JSON: "),
        (ChatCompletionRequest, b"[]", None, "the body is []: it must be an object"),
        (ChatCompletionRequest, b'{"messages": [{"role": "x"}]}', "messages.0.role", "is 'x': it"),
        (CompletionRequest, b'{"prompt": [1, "a"]}', "prompt", "prompt is [1, 'a']: it must be a"),
        (CompletionRequest, b'{"prompt": []}', "prompt", "non-empty"),
        (CompletionRequest, b'{"prompt": "a", "n": 0}', "n", "n is 0: it must be greater than"),
        (CompletionRequest, b'{"prompt": "a", "n": "1"}', "n", "n is '1': it must be a valid int"),
        (CompletionRequest, b'{"prompt": "a", "stop": [""]}', "stop", "strings of 1 to 1024"),
        (CompletionRequest, b'{"prompt": "a", "stop": {"x": 1}}', "stop", "a string or a list"),
        (CompletionRequest, b'{"prompt": "a", "logit_bias": {"x": 1}}', "logit_bias", "token ids"),
        (CompletionRequest, b'{"prompt": "a", "logit_bias": {"1": 101}}', "logit_bias", "-100 to"),
        (CompletionRequest, b'{"prompt": "a", "logit_bias": []}', "logit_bias", "an object"),
    ],
)
def test_bad_bodies_name_field_value_and_limit(
    model: type[Body], raw: bytes, param: str | None, message: str
) -> None:
    error = refusal(lambda: parse(raw, model))

    assert (error.status, error.param) == (400, param)
    assert message in error.message


def test_json_errors_name_the_position() -> None:
    error = refusal(lambda: parse(b'{\n  "prompt": oops}', CompletionRequest))

    assert "line 2 column 13" in error.message
