"""Rendered conversations against transformers' `apply_chat_template`, and what templates refuse."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from hfx.models import ChatTemplate, LoadedModel
from hfx.models.chat import template_from

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Größe & <b>preis</b>?\n"},
    {"role": "assistant", "content": "42 €"},
    {"role": "user", "content": "Sicher? 🎉"},
]
TOOLS = [
    {
        "type": "function",
        "function": {"name": "größe", "description": "<of> 'it'", "parameters": {"x": [1, None]}},
    }
]

LLAMA2 = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
    {% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}
    {% set rest = messages[1:] %}
{% else %}
    {% set system = '' %}
    {% set rest = messages %}
{% endif %}
{% for message in rest %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must alternate user/assistant') }}
    {% endif %}
    {% if message['role'] == 'user' %}
        {{- '[INST] ' + (system if loop.first else '') + message.content | trim + ' [/INST]' }}
    {% else %}
        {{- ' ' + message.content | trim + eos_token }}
    {% endif %}
{% endfor %}"""

TOOL_USE = """{%- if tools %}
    {{- '<|im_start|>system\\n# Tools' }}
    {%- for tool in tools %}
        {{- "\\n" + (tool | tojson) + (tool | tojson(indent=2)) }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{% continue %}{% endif %}
    {%- set ns.last = loop.index0 %}
    {%- generation %}{{- message.role ~ ': ' ~ message.content ~ '\\n' }}{%- endgeneration %}
{%- endfor %}
{{- ns.last }} {{ documents is none }}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
{%- if enable_thinking is defined and not enable_thinking %}{{- '<think></think>' }}{%- endif %}
"""

PARTS = """{% for message in messages %}{{ message.role }}:
{% for part in message['content'] %}
{% if part.type == 'text' %}[{{ part.text }}]{% else %}<image>{% endif %}
{% endfor %}
{% endfor %}"""

DATED = "Today: {{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ m.content }}{% endfor %}"


def _theirs(template: str, messages: list[dict[str, Any]], **options: Any) -> str:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1}, "<s>")),
        bos_token="<s>",
        eos_token="</s>",
    )
    tokenizer.chat_template = template
    return tokenizer.apply_chat_template(messages, tokenize=False, **options)


def _ours(template: str, messages: list[dict[str, Any]], **options: Any) -> str:
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    return ChatTemplate(template, special).render(messages, **options)


@pytest.mark.parametrize("template", [LLAMA2, TOOL_USE, DATED])
@pytest.mark.parametrize("prompt", [True, False])
def test_a_conversation_is_rendered_as_by_transformers(template: str, prompt: bool) -> None:
    options = {"add_generation_prompt": prompt}

    assert _ours(template, TURNS, **options) == _theirs(template, TURNS, **options)


def test_tools_and_further_variables_reach_the_template() -> None:
    options = {"tools": TOOLS, "enable_thinking": False, "add_generation_prompt": True}

    text = _ours(TOOL_USE, TURNS, **options)

    assert text == _theirs(TOOL_USE, TURNS, **options)
    assert "größe" in text and "<of> 'it'" in text and text.endswith("<think></think>")


def test_the_bundled_template_is_rendered_as_by_transformers(bundled: LoadedModel) -> None:
    assert bundled.chat is not None
    without_system = TURNS[1:]

    for messages in (TURNS, without_system):
        text = bundled.chat.render(messages)
        expected = _theirs(bundled.chat.source, messages, add_generation_prompt=True)
        assert text == expected and text.endswith("<|im_start|>assistant\n")


def test_text_parts_are_joined_for_a_template_that_takes_strings() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]

    text = _ours(LLAMA2, [{"role": "user", "content": parts}])

    assert text == _ours(LLAMA2, [{"role": "user", "content": "one\ntwo"}])


def test_text_parts_are_left_to_a_template_that_takes_parts() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "image"}]}]

    assert _ours(PARTS, messages) == _theirs(PARTS, messages) == "user:\n[one]<image>"


def test_a_part_that_is_no_text_is_refused_by_its_type() -> None:
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]

    with pytest.raises(ValueError, match=r"type 'image_url': supported: 'text'"):
        _ours(LLAMA2, messages)


def test_what_a_template_refuses_is_said_in_its_own_words() -> None:
    with pytest.raises(ValueError, match="Roles must alternate user/assistant"):
        _ours(LLAMA2, [{"role": "assistant", "content": "first"}])


def test_a_message_without_what_the_template_reads_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot render these messages"):
        _ours("{{ messages[0]['content'] + 'x' }}", [{"role": "user", "content": None}])


def test_a_template_cannot_leave_its_sandbox() -> None:
    escape = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(ValueError, match="unsafe"):
        _ours(escape, TURNS)
    with pytest.raises(ValueError, match="unsafe"):
        _ours("{{ messages.append(1) }}", TURNS)


def test_a_template_that_is_no_jinja_is_refused_with_its_line() -> None:
    with pytest.raises(ValueError, match="line 2"):
        ChatTemplate("{{ messages }}\n{% for x in %}")


def test_a_template_is_given_as_text_or_by_file(tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text("{{ messages[0].content }}")

    by_file, by_text = template_from(str(file)), template_from(file.read_text())

    assert by_file is not None and by_text is not None
    assert by_file.render(TURNS) == by_text.render(TURNS) == "Be brief."
    assert template_from(None) is None
    with pytest.raises(ValueError, match=r"'missing\.jinja': neither a file nor a Jinja template"):
        template_from("missing.jinja")


def test_the_date_is_todays() -> None:
    assert f"{datetime.now():%d %b %Y}" in _ours(DATED, TURNS)
