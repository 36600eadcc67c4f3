"""`POST /v1/estimate`: what a request could expect if it came now, without running it. Seconds
inside, milliseconds outside."""

from typing import Any

from starlette.requests import Request as Incoming

from hfx.cost import Estimate
from hfx.engine.errors import EngineError

from .body import read_as
from .errors import ApiError, bad_field
from .generation import Ask, refusal
from .outcome import estimated
from .overload import infeasible
from .protocol import ChatCompletionRequest, CompletionRequest
from .site import Model

EitherBody = ChatCompletionRequest | CompletionRequest


async def estimate(model: Model, incoming: Incoming) -> dict[str, Any]:
    """The answer for a chat or completion body.

    Raises:
        ApiError: 400 for a bad body, 501 where the server runs without a cost model, and what a
            completion would be refused with.
    """
    body: EitherBody = await read_as(incoming, _kind_of)
    ask = await _ask(model, incoming, body)
    if len(ask.requests) > 1:
        param = "n" if ask.choices_per_prompt > 1 else "prompt"
        raise bad_field(param, f"{param} asks for {len(ask.requests)} completions: estimate one")
    (request,) = ask.requests
    try:
        outlook, refused = await model.engine.foresee(request)
    except (EngineError, ValueError) as error:
        raise refusal(error, ask.promise) from error
    if outlook is None:
        raise ApiError(
            501,
            "this server predicts nothing: start it with a --cost-profile other than off",
            code="no_cost_model",
        )
    return {
        "object": "estimate",
        "model": ask.head.model,
        "service_tier": ask.promise.tier,
        "prompt_tokens": request.prompt_tokens,
        "ttft_ms": _interval(outlook.ttft_s),
        "tpot_ms": _interval(outlook.tpot_s),
        "finish_ms": _interval(outlook.finish_s),
        "feasible": refused is None,
        "refusal": infeasible(refused, ask.promise).document["error"] if refused else None,
    }


def _kind_of(document: object) -> type[EitherBody]:
    is_chat = isinstance(document, dict) and "messages" in document
    return ChatCompletionRequest if is_chat else CompletionRequest


async def _ask(model: Model, incoming: Incoming, body: EitherBody) -> Ask:
    if isinstance(body, ChatCompletionRequest):
        return await model.ask_chat(incoming, body)
    return await model.ask_completion(incoming, body)


def _interval(estimate: Estimate) -> dict[str, Any]:
    """A prediction with both its bounds: the lower mirrors the upper one as a factor."""
    lower_s = estimate.mean_s**2 / estimate.upper_s if estimate.upper_s else 0.0
    return {"lower": round(lower_s * 1000, 3), **(estimated(estimate) or {})}
