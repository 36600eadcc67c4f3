"""`/docs`: one self-contained HTML page made from the OpenAPI schema, readable offline."""

import json
from html import escape
from typing import Any

Schema = dict[str, Any]

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #2a7; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 small { font-weight: normal; opacity: .6; font-size: 1rem }
h2 { margin-top: 2.5rem; text-transform: capitalize; border-bottom: 1px solid var(--line) }
details { border: 1px solid var(--line); border-radius: .5rem; margin: .6rem 0; padding: 0 1rem }
summary { cursor: pointer; padding: .6rem 0 }
table { border-collapse: collapse; width: 100%; font-size: .9rem; margin-bottom: 1rem }
td, th { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0;
         border-top: 1px solid var(--line) }
code, pre { font: .85rem/1.45 ui-monospace, monospace }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; border-radius: .4rem }
.method { display: inline-block; min-width: 3.2rem; font-weight: 600; color: var(--accent) }
"""


def page(schema: Schema, base_url: str) -> str:
    """The page for an OpenAPI document of the server at `base_url`."""
    info = schema["info"]
    groups: dict[str, list[str]] = {}
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            section = groups.setdefault(operation["tags"][0], [])
            section.append(_operation(schema, method, path, operation, base_url))
    body = "".join(f"<h2>{escape(name)}</h2>{''.join(parts)}" for name, parts in groups.items())
    title = f"{escape(info['title'])} {escape(info['version'])}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1>"
        f'<p>{_prose(info["description"])} <a href="openapi.json">openapi.json</a></p>'
        f"{body}</body></html>"
    )


def _operation(schema: Schema, method: str, path: str, operation: Schema, base_url: str) -> str:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    parts = [_example(method, base_url + path, content)]
    if content:
        parts.append(_fields("Request body", schema, content["schema"]))
    parts.append(_parameters("Header", operation.get("parameters", [])))
    parts.append(_parameters("Query", operation.get("parameters", [])))
    for code, answer in operation["responses"].items():
        kind = answer.get("content", {}).get("application/json", {}).get("schema")
        if kind and code in ("200", "202"):
            parts.append(_fields("Answer", schema, kind))
    parts.append(_statuses(operation["responses"]))
    return (
        f'<details id="{escape(operation["operationId"])}"><summary>'
        f'<span class="method">{method.upper()}</span> <code>{escape(path)}</code> '
        f"{escape(operation['summary'])}</summary>{''.join(parts)}</details>"
    )


def _example(method: str, url: str, content: Schema | None) -> str:
    is_plain = method == "get" or (method == "post" and content is not None)
    command = f"curl -s {'' if is_plain else f'-X {method.upper()} '}{url}"
    if content:
        body = json.dumps(content["example"], ensure_ascii=False)
        command += f" \\\n  -H 'Content-Type: application/json' \\\n  -d '{body}'"
    return f"<pre>{escape(command)}</pre>"


def _parameters(place: str, parameters: list[Schema]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(each['name'])}</code></td><td>{_prose(each['description'])}</td></tr>"
        for each in parameters
        if each["in"] == place.lower()
    )
    return f"<table><tr><th>{place}</th><th></th></tr>{rows}</table>" if rows else ""


def _statuses(responses: Schema) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(code)}</code></td><td>{_prose(answer['description'])}</td></tr>"
        for code, answer in responses.items()
    )
    return f"<table><tr><th>Status</th><th>Meaning</th></tr>{rows}</table>"


def _fields(title: str, schema: Schema, reference: Schema) -> str:
    model = _resolved(schema, reference)
    required = model.get("required", [])
    properties = model.get("properties", {}).items()
    rows = [
        f"<tr><td><code>{escape(name)}</code>{' *' if name in required else ''}</td>"
        f"<td><code>{escape(_type(field))}</code></td>"
        f"<td>{_prose(field.get('description', ''))}</td></tr>"
        for name, field in sorted(properties, key=lambda item: item[0] not in required)
    ]
    head = f"<tr><th>{title}</th><th>Type</th><th>{_prose(model.get('description', ''))}</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>" + "".join(_nested(schema, model))


def _nested(schema: Schema, model: Schema) -> list[str]:
    """Tables of the objects that a model's fields refer to, each once."""
    found = dict.fromkeys(
        name for field in model.get("properties", {}).values() for name in _references(field)
    )
    return [
        _fields(escape(name), schema, {"$ref": f"#/components/schemas/{name}"}) for name in found
    ]


def _references(field: Any) -> list[str]:
    if isinstance(field, dict):
        own = [field["$ref"].rsplit("/", 1)[1]] if "$ref" in field else []
        return own + [name for value in field.values() for name in _references(value)]
    if isinstance(field, list):
        return [name for value in field for name in _references(value)]
    return []


def _resolved(schema: Schema, reference: Schema) -> Schema:
    if "$ref" not in reference:
        return reference
    resolved: Schema = schema["components"]["schemas"][reference["$ref"].rsplit("/", 1)[1]]
    return resolved


def _type(field: Schema) -> str:
    """A field's type in a few words, with its limits."""
    if "anyOf" in field:
        kinds = dict.fromkeys(_type(part) for part in field["anyOf"] if part != {"type": "null"})
        return " or ".join(kinds)
    if "$ref" in field:
        return str(field["$ref"].rsplit("/", 1)[1])
    if "enum" in field:
        return ", ".join(map(str, field["enum"]))
    kind = field.get("type", "any")
    kind = str(kind[0] if isinstance(kind, list) else kind)
    if kind == "array":
        return f"list of {_type(field.get('items', {}))}"
    return kind + _limits(field)


def _limits(field: Schema) -> str:
    words = {
        "minimum": "≥",
        "exclusiveMinimum": ">",
        "maximum": "≤",
        "exclusiveMaximum": "<",
    }
    found = [f"{sign} {_number(field[name])}" for name, sign in words.items() if name in field]
    return f" ({', '.join(found)})" if found else ""


def _number(value: float) -> str:
    """A limit; those of machine integers as powers of two."""
    size = abs(int(value))
    if size > 1 << 30 and not size & (size - 1):
        return f"{'-' if value < 0 else ''}2^{size.bit_length() - 1}"
    return f"{value:g}"


def _prose(text: str) -> str:
    """Escaped text whose `quoted` words are code."""
    pieces = escape(text).split("`")
    return "".join(
        f"<code>{piece}</code>" if odd % 2 else piece for odd, piece in enumerate(pieces)
    )
