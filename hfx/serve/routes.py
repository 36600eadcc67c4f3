"""The endpoints. Bodies are read by hand, so that every error has one form; `/docs` lists them."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import orjson
from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

import hfx

from . import convert, metrics, protocol, replies
from .body import read
from .errors import ApiError, bad_field, not_found
from .estimate import estimate
from .generation import Ask, Generation
from .promises import DESCRIBED
from .site import Model, Site, site_of

router = APIRouter()


def json(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(orjson.dumps(document), status, headers, "application/json")


def takes(model: type[protocol.Body], example: dict[str, Any]) -> dict[str, Any]:
    """How OpenAPI describes the body that a route reads by hand."""
    reference = {"$ref": f"#/components/schemas/{model.__name__}"}
    content = {"application/json": {"schema": reference, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def promises(described: dict[str, Any]) -> dict[str, Any]:
    """The same, with the headers that promise something."""
    parameters = [
        {"in": "header", "name": name, "schema": {"type": "string"}, "description": text}
        for name, text in DESCRIBED.items()
    ]
    return described | {"parameters": parameters}


def gives(model: type[BaseModel], *errors: int, done: int = 200) -> dict[int | str, dict[str, Any]]:
    """How OpenAPI describes a route's answers."""
    text = "Done." if done == 200 else "Begun."
    described: dict[int | str, dict[str, Any]] = {done: {"model": model, "description": text}}
    for code in errors:
        form = replies.RefusalReply if code == 429 else replies.ErrorReply
        described[code] = {"model": form, "description": _WHY[code]}
    return described


_WHY = {
    400: "A field is wrong; `param` names it.",
    401: "The API key is missing or wrong.",
    404: "No such model.",
    409: "Not now, or not on this server; `code` and `message` say why, and what helps.",
    413: "The body is too large.",
    429: "The promise can't be kept (`type` `slo_infeasible`), or the queue is full "
    "(`overloaded`): nothing was computed. `Retry-After` says when to come back; it is missing, "
    "and `x-should-retry` false, where that won't help.",
    501: "There is no cost model.",
    503: "Loading, draining or dead.",
    504: "The deadline has passed, and `on_miss` was `refuse`; in a stream, an error event.",
}
_INFERENCE = (400, 401, 404, 413, 429, 503)


@router.post(
    "/v1/chat/completions",
    tags=["inference"],
    summary="Answer a conversation",
    openapi_extra=promises(
        takes(
            protocol.ChatCompletionRequest,
            {"messages": [{"role": "user", "content": "What is the capital of Japan?"}]},
        )
    ),
    responses=gives(replies.ChatCompletion, *_INFERENCE, 504),
)
async def chat_completions(request: Request) -> Response:
    site = site_of(request)
    model = site.admitted()
    body = await read(request, protocol.ChatCompletionRequest)
    prepare = partial(model.ask_chat, request, body)
    return _generation(site, model, prepare)


@router.post(
    "/v1/completions",
    tags=["inference"],
    summary="Continue a text",
    openapi_extra=promises(
        takes(protocol.CompletionRequest, {"prompt": "Once upon a time", "max_tokens": 32})
    ),
    responses=gives(replies.Completion, *_INFERENCE, 504),
)
async def completions(request: Request) -> Response:
    site = site_of(request)
    model = site.admitted()
    body = await read(request, protocol.CompletionRequest)
    prepare = partial(model.ask_completion, request, body)
    return _generation(site, model, prepare)


def _generation(site: Site, model: Model, prepare: Callable[[], Awaitable[Ask]]) -> Generation:
    keep_alive_s = site.http.sse_keep_alive_s
    return Generation(
        prepare, model.engine, model.metrics, model.tier_metrics, site.lifecycle, keep_alive_s
    )


@router.post(
    "/v1/estimate",
    tags=["inference"],
    summary="What a request could expect now, without running it: a body of either of the above",
    openapi_extra=promises(
        takes(
            protocol.CompletionRequest,
            {"prompt": "Once upon a time", "max_tokens": 32, "slo": {"ttft_ms": 500}},
        )
    ),
    responses=gives(replies.Estimate, *_INFERENCE, 501),
)
async def estimated(request: Request) -> Response:
    return json(await estimate(site_of(request).admitted(), request))


@router.post(
    "/tokenize",
    tags=["inference"],
    summary="Text or conversation to token ids",
    openapi_extra=takes(protocol.TokenizeRequest, {"prompt": "Hello world"}),
    responses=gives(replies.Tokenized, *_INFERENCE),
)
async def tokenize(request: Request) -> Response:
    model = site_of(request).admitted()
    body = await read(request, protocol.TokenizeRequest)
    convert.check_model(body.model, model.served)
    if (body.prompt is None) == (body.messages is None):
        raise bad_field("prompt", "give either prompt or messages, and not both")
    if body.messages is not None:
        tokens = await model.prompts.conversation(body.messages, body)
    else:
        tokens = await model.prompts.text(body.prompt or "", body)
    texts = [model.tokenizer.token_text(token) for token in tokens]
    return json(
        {
            "tokens": tokens,
            "count": len(tokens),
            "max_model_len": model.served.max_model_len,
            "token_strs": texts if body.return_token_strs else None,
        }
    )


@router.post(
    "/detokenize",
    tags=["inference"],
    summary="Token ids to text",
    openapi_extra=takes(protocol.DetokenizeRequest, {"tokens": [19556, 905]}),
    responses=gives(replies.Detokenized, *_INFERENCE),
)
async def detokenize(request: Request) -> Response:
    model = site_of(request).admitted()
    body = await read(request, protocol.DetokenizeRequest)
    convert.check_model(body.model, model.served)
    return json({"prompt": await model.prompts.detokenized(body.tokens)})


@router.get(
    "/v1/models",
    tags=["models"],
    summary="The served models",
    responses=gives(replies.ModelList, 401, 503),
)
async def models(request: Request) -> Response:
    return json({"object": "list", "data": _cards(site_of(request))})


@router.get(
    "/v1/models/{model_id:path}",
    tags=["models"],
    summary="One served model",
    responses=gives(replies.ModelCard, 401, 404, 503),
)
async def model_card(request: Request, model_id: str) -> Response:
    cards = {card["id"]: card for card in _cards(site_of(request))}
    if model_id not in cards:
        raise not_found(model_id, tuple(cards))
    return json(cards[model_id])


def _emulation(site: Site) -> dict[str, str]:
    """What no answer about an emulated device leaves out."""
    return {} if site.emulated is None else {"emulated": site.emulated}


def _cards(site: Site) -> list[dict[str, Any]]:
    model = site.opened()
    return [
        replies.ModelCard(
            id=name,
            created=model.created,
            root=model.source,
            max_model_len=model.served.max_model_len,
        ).model_dump(exclude={"emulated"})
        | _emulation(site)
        for name in model.served.names
    ]


@router.get(
    "/v1/tiers",
    tags=["models"],
    summary="The tiers that service_tier may name, and whether this device can keep their promises",
    responses=gives(replies.TierList, 401, 503),
)
async def tiers(request: Request) -> Response:
    site = site_of(request)
    return json({"object": "list", "data": [each.card for each in site.opened().reach()]})


@router.get(
    "/health", tags=["operation"], summary="Is the process able to live on?",
    responses=gives(replies.Status, 503),
)  # fmt: skip
async def health(request: Request) -> Response:
    site = site_of(request)
    dead = site.state() == "dead"
    status: dict[str, Any] = {"status": "dead" if dead else "ok"}
    if site.replicas is not None:
        status["replicas"] = site.replicas()
    return json(status, 503 if dead else 200)


@router.get(
    "/ping", tags=["operation"], summary="The same as /health",
    responses=gives(replies.Status, 503),
)  # fmt: skip
async def ping(request: Request) -> Response:
    return await health(request)


@router.get(
    "/ready", tags=["operation"], summary="Does it take inference requests now?",
    responses=gives(replies.Status, 503),
)  # fmt: skip
async def ready(request: Request) -> Response:
    site = site_of(request)
    state = site.state()
    replicas = None if site.replicas is None else site.replicas()
    if state == "ready" and (replicas is None or replicas.get("ready")):
        return json({"status": "ok", "phase": None})
    phase = site.lifecycle.phase if state == "loading" else None
    if state == "ready":
        state, phase = "loading", "no replica is ready"
    return json({"status": state, "phase": phase}, 503, {"retry-after": "1"})


@router.get(
    "/version", tags=["operation"], summary="Version of hfx", responses=gives(replies.Version)
)
async def version(request: Request) -> Response:
    return json({"version": hfx.__version__} | _emulation(site_of(request)))


@router.get(
    "/metrics",
    tags=["operation"],
    summary="Prometheus metrics",
    responses={200: {"content": {"text/plain": {}}, "description": "The exposition format."}},
)
async def exposition(request: Request) -> Response:
    text = site_of(request).metrics.text()
    return Response(text, media_type=metrics.CONTENT_TYPE)


async def refuse(request: Request, error: Exception) -> Response:
    """An `ApiError` as a response."""
    assert isinstance(error, ApiError)
    if error.status in (429, 503):
        site_of(request).metrics.reject(error.code or "unavailable")
    return Response(error.body, error.status, error.headers, "application/json")
