"""What the routes share: the server's state, and the loaded model once there is one."""

import itertools
import time
from dataclasses import dataclass, field

from starlette.requests import Request

import hfx
from hfx.config import HttpConfig
from hfx.engine.async_engine import AsyncEngine

from . import convert
from .convert import Served
from .form import ChatForm, CompletionForm, Form, Head, fingerprint
from .generation import Ask
from .lifecycle import Lifecycle
from .metrics import EngineMetrics, HttpMetrics
from .prompts import Prompts, Tokenizer
from .protocol import ChatCompletionRequest, CompletionRequest, GenerationBody

_SERIAL = itertools.count()  # clients may use one request id twice at a time; the engine may not


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model with all that answering needs."""

    engine: AsyncEngine
    served: Served
    tokenizer: Tokenizer
    prompts: Prompts
    metrics: EngineMetrics
    source: str
    created: int  # seconds since 1970

    async def ask_chat(self, request_id: str, body: ChatCompletionRequest) -> Ask:
        """What a chat completion asks of the engine."""
        head = self._head(body, f"chatcmpl-{body.request_id or request_id}")
        arrival_s = self.engine.clock.now_s()
        tokens = await self.prompts.chat(body)
        form = ChatForm(
            self.tokenizer, logprobs=bool(body.logprobs), token_ids=bool(body.return_token_ids)
        )
        return self._ask(body, head, form, [(tokens, "")], arrival_s)

    async def ask_completion(self, request_id: str, body: CompletionRequest) -> Ask:
        """What a text completion asks of the engine."""
        head = self._head(body, f"cmpl-{body.request_id or request_id}")
        arrival_s = self.engine.clock.now_s()
        prompts = await self.prompts.texts(body)
        form = CompletionForm(
            self.tokenizer,
            logprobs=body.logprobs is not None,
            token_ids=bool(body.return_token_ids),
        )
        return self._ask(body, head, form, prompts, arrival_s)

    def _head(self, body: GenerationBody, answer_id: str) -> Head:
        name = convert.check_model(body.model, self.served)
        convert.check_supported(body)
        options = body.stream_options
        return Head(
            id=answer_id,
            model=name,
            created=int(time.time()),
            fingerprint=fingerprint(hfx.__version__, self.source),
            tier=body.service_tier is not None,
            usage=bool(options and options.include_usage),
        )

    def _ask(
        self,
        body: GenerationBody,
        head: Head,
        form: Form,
        prompts: list[tuple[tuple[int, ...], str]],
        arrival_s: float,
    ) -> Ask:
        choices = body.n or 1
        made = convert.requests(
            body,
            [tokens for tokens, _ in prompts],
            self.served,
            request_id=f"{head.id}-{next(_SERIAL)}",
            arrival_s=arrival_s,
        )
        echoes = tuple(echo for _, echo in prompts for _ in range(choices))
        return Ask(made, echoes, choices, head, form, bool(body.stream))


@dataclass(slots=True)
class Site:
    """The server: its settings, its state, and its model from the moment that is loaded."""

    http: HttpConfig
    metrics: HttpMetrics
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    model: Model | None = None

    def state(self) -> str:
        """The lifecycle's state, or `dead` once the engine is."""
        if self.lifecycle.state == "ready" and self.model and not self.model.engine.is_healthy:
            self.lifecycle.state = "dead"
        return self.lifecycle.state

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
