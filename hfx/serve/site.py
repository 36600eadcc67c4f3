"""What the routes share: the server's state, and the loaded model once there is one."""

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import Request

import hfx
from hfx.config import HttpConfig, Tier
from hfx.engine.service import Service

from . import convert
from .convert import Served
from .form import ChatForm, CompletionForm, Form, Head, fingerprint
from .generation import Ask
from .lifecycle import Lifecycle
from .metrics import EngineMetrics, HttpMetrics
from .promises import Promise, promise
from .prompts import Prompts, Tokenizer
from .protocol import ChatCompletionRequest, CompletionRequest, GenerationBody
from .reach import Reach, reach
from .tier_metrics import TierMetrics

if TYPE_CHECKING:
    from hfx.fleet.fleet import Fleet

_SERIAL = itertools.count()  # clients may use one request id twice at a time; the engine may not


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model with all that answering needs."""

    engine: Service
    served: Served
    tokenizer: Tokenizer
    prompts: Prompts
    metrics: EngineMetrics
    tier_metrics: TierMetrics
    source: str
    created: int  # seconds since 1970
    tiers: Mapping[str, Tier]
    tells_metrics: bool  # in answers to requests without a promise, too
    emulated: str | None = None  # the profile of the device, if there is none

    def reach(self) -> tuple[Reach, ...]:
        """What this device could make of each tier if it were idle, by the present prices."""
        cost = self.engine.cost
        prices = None if cost is None else cost.snapshot()
        return reach(self.tiers.values(), prices, self.engine.max_step_tokens)

    async def ask_chat(self, incoming: Request, body: ChatCompletionRequest) -> Ask:
        """What a chat completion asks of the engine."""
        promised = promise(body, incoming.headers, self.tiers)
        head = self._head(body, "chatcmpl", incoming, promised)
        arrival_s = self.engine.clock.now_s()
        tokens = await self.prompts.chat(body)
        form = ChatForm(
            self.tokenizer, logprobs=bool(body.logprobs), token_ids=bool(body.return_token_ids)
        )
        return self._ask(body, head, form, [(tokens, "")], promised, arrival_s)

    async def ask_completion(self, incoming: Request, body: CompletionRequest) -> Ask:
        """What a text completion asks of the engine."""
        promised = promise(body, incoming.headers, self.tiers)
        head = self._head(body, "cmpl", incoming, promised)
        arrival_s = self.engine.clock.now_s()
        prompts = await self.prompts.texts(body)
        form = CompletionForm(
            self.tokenizer,
            logprobs=body.logprobs is not None,
            token_ids=bool(body.return_token_ids),
        )
        return self._ask(body, head, form, prompts, promised, arrival_s)

    def _head(self, body: GenerationBody, kind: str, incoming: Request, promised: Promise) -> Head:
        name = convert.check_model(body.model, self.served)
        convert.check_supported(body)
        options = body.stream_options
        return Head(
            id=f"{kind}-{body.request_id or incoming.scope['request_id']}",
            model=name,
            created=int(time.time()),
            fingerprint=fingerprint(hfx.__version__, self.source, self.emulated),
            tier=promised.tier if promised.is_asked_for else None,
            usage=bool(options and options.include_usage),
        )

    def _ask(
        self,
        body: GenerationBody,
        head: Head,
        form: Form,
        prompts: list[tuple[tuple[int, ...], str]],
        promised: Promise,
        arrival_s: float,
    ) -> Ask:
        choices = body.n or 1
        made = convert.requests(
            body,
            [tokens for tokens, _ in prompts],
            self.served,
            promise=promised,
            request_id=f"{head.id}-{next(_SERIAL)}",
            arrival_s=arrival_s,
        )
        echoes = tuple(echo for _, echo in prompts for _ in range(choices))
        tells = self.tells_metrics or promised.is_asked_for
        return Ask(made, echoes, choices, head, form, bool(body.stream), promised, tells)


@dataclass(slots=True)
class Site:
    """The server: its settings, its state, and its model from the moment that is loaded."""

    http: HttpConfig
    metrics: HttpMetrics
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    replicas: Callable[[], Mapping[str, int]] | None = None  # by phase, where there are several
    model: Model | None = None
    emulated: str | None = None  # known before there is a model
    device: str = "auto"  # as configured
    fleet: "Fleet | None" = None  # of replicas, where there are some

    def state(self) -> str:
        """The lifecycle's state, or `dead` once the engine is."""
        if self.lifecycle.state == "ready" and self.model and not self.model.engine.is_healthy:
            self.lifecycle.state = "dead"
        return self.lifecycle.state

    def opened(self) -> Model:
        """The model, once it has been loaded, whatever has become of the server since.

        Raises:
            ApiError: 503, it is loading.
        """
        if self.model is None:
            self.lifecycle.admit()
        assert self.model is not None
        return self.model

    def admitted(self) -> Model:
        """The model, if it takes requests now.

        Raises:
            ApiError: it does not.
        """
        self.state()
        self.lifecycle.admit()
        assert self.model is not None
        return self.model


def site_of(request: Request) -> Site:
    """The site of the application that a request came to."""
    site = request.app.state.site
    assert isinstance(site, Site)
    return site
