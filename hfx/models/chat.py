"""Conversations as the text that a model was trained on, by its own Jinja template.

Templates come with models, from strangers: they run in Jinja's immutable sandbox.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATE_MARKS = ("{{", "{%")  # text with one of these is a template itself, not a file's name


class ChatTemplate:
    """A compiled chat template; `special_tokens` (bos_token and so on) are its variables.

    Raises:
        ValueError: the template isn't valid Jinja.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str] | None = None) -> None:
        self.source = source
        self._special_tokens = dict(special_tokens or {})
        environment = _environment()
        try:
            self._template = environment.from_string(source)
            self.takes_parts = _reads_parts(environment.parse(source))
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(
                f"the chat template is not valid, line {error.lineno}: {error}"
            ) from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt's text. A content that is a list of text parts is joined, unless the template
        reads parts itself.

        Raises:
            ValueError: the template refuses the conversation (its own words are in the message) or
                can't be rendered with it, or a part is no text.
        """
        if not self.takes_parts:
            messages = [_with_text(message) for message in messages]
        try:
            return self._template.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                **{**self._special_tokens, "tools": None, "documents": None, **variables},
            )
        except jinja2.TemplateError as error:
            raise ValueError(f"the chat template says: {error}") from error
        except (TypeError, KeyError, AttributeError, IndexError) as error:
            raise ValueError(f"the chat template cannot render these messages: {error}") from error


def template_from(
    source: str | None, special_tokens: Mapping[str, str] | None = None
) -> ChatTemplate | None:
    """The template that `source` is, or that the file it names holds; None without a source.

    Raises:
        ValueError: no such file, or not valid Jinja.
    """
    if not source:
        return None
    if not any(mark in source for mark in TEMPLATE_MARKS):
        file = Path(source)
        if not file.is_file():
            raise ValueError(f"chat template {source!r}: neither a file nor a Jinja template")
        source = file.read_text(encoding="utf-8")
    return ChatTemplate(source, special_tokens)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationTag]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes <, > and & for HTML, and models have never seen that.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _with_text(message: Mapping[str, Any]) -> Mapping[str, Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    texts = []
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise ValueError(f"content part of type {kind!r}: supported: 'text'")
        texts.append(part["text"])
    return {**message, "content": "\n".join(texts)}


def _reads_parts(tree: nodes.Template) -> bool:
    """Whether the template loops over a message's content, as templates for parts do."""
    return any(_is_content(loop.iter) for loop in tree.find_all(nodes.For))


def _is_content(node: nodes.Node | None) -> bool:
    while isinstance(node, nodes.Filter):
        node = node.node
    if isinstance(node, nodes.Name):
        return node.name == "content"
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Const) and node.arg.value == "content"
    return False


class _GenerationTag(Extension):
    """`{% generation %}`: marks the assistant's words for training; here it only prints them."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
