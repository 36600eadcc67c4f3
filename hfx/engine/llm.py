"""Offline generation: many prompts through one engine, in the caller's thread."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm import tqdm

from hfx.config import CacheConfig, CostConfig, EngineConfig, ModelConfig, SchedulerConfig
from hfx.request import FinishReason, Objective, Request, Sampling

from .delta import Delta, RequestTimes, TokenLogprob
from .launch import build_engine
from .verdict import Verdict, verdict

if TYPE_CHECKING:
    from hfx.models import Words

Prompt = str | Sequence[int]
Message = Mapping[str, Any]

DEFAULT_MAX_TOKENS = 256

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer. `index` counts the samples of a prompt; `logprobs` are there if asked for.

    `verdict` says what became of its promise; None where nothing was promised.
    """

    prompt_token_ids: tuple[int, ...]
    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None
    finish_reason: FinishReason
    stop_reason: str | int | None
    cached_tokens: int
    times: RequestTimes
    error: str | None = None
    verdict: Verdict | None = None


class LLM:
    """A model that answers many prompts at once.

    `model` is a Hugging Face folder, a GGUF file, a Hub id, or None for the bundled model. Options
    are the fields of `ModelConfig`, `CacheConfig`, `SchedulerConfig`, `CostConfig` and
    `EngineConfig`, by name; `cost_profile` is "off" unless given.

    Raises:
        TypeError: there is no such option.
        ValueError: a setting is impossible; the message says which and what to do.
    """

    def __init__(self, model: str | None = None, **options: Any) -> None:
        options.setdefault("cost_profile", "off")
        self._engine, self._model = build_engine(engine_config(model=model, **options))
        self._ids = count()

    def close(self) -> None:
        """End other ranks' processes, if there are some; else they end with this object."""
        self._engine.close()

    @property
    def model(self) -> "Words":
        """The model itself, its tokenizer and its chat template."""
        return self._model

    @property
    def max_model_len(self) -> int:
        """Most tokens of prompt and output together."""
        return self._engine.max_model_len

    def default_sampling(self) -> Sampling:
        """What the model's makers suggest, and up to 256 tokens."""
        advice = self._model.generation
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        given = {name: getattr(advice, name) for name in names}
        return Sampling(
            max_tokens=advice.max_new_tokens or DEFAULT_MAX_TOKENS,
            **{name: value for name, value in given.items() if value is not None},
        )

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling: Sampling | Sequence[Sampling] | None = None,
        *,
        objective: Objective | Sequence[Objective] | None = None,
        n: int = 1,
        progress: bool = False,
    ) -> list[Completion]:
        """Continue prompts, given as texts or token ids; `n` samples of each.

        The answers come in the order of the prompts, the samples of one next to each other. With a
        seed, sample i of a prompt is drawn with seed + i. `sampling` and `objective` may be one for
        all prompts or one each; None is `default_sampling()`, and no promise. Nothing is refused,
        but a hard deadline ends its answer with the reason "expired". Promises order the work only
        under a policy that knows them: "hfx" needs a `cost_profile` other than "off".

        Raises:
            ValueError: a prompt is empty or too long, or the numbers of prompts and of samplings or
                objectives differ. Nothing has been computed then.
        """
        if n < 1:
            raise ValueError(f"n is {n}: it must be at least 1")
        token_ids = [self._encode(prompt) for prompt in _prompts(prompts)]
        given = self.default_sampling() if sampling is None else sampling
        samplings = _one_each("samplings", given, Sampling, len(token_ids))
        promised = Objective() if objective is None else objective
        objectives = _one_each("objectives", promised, Objective, len(token_ids))
        requests = [
            Request(
                id=f"llm-{next(self._ids)}",
                prompt_token_ids=ids,
                sampling=_sample(each, index),
                objective=promise,
            )
            for ids, each, promise in zip(token_ids, samplings, objectives, strict=True)
            for index in range(n)
        ]
        answers = self._run(requests, progress)
        return [
            _completion(request, position % n, answers[request.id])
            for position, request in enumerate(requests)
        ]

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling: Sampling | Sequence[Sampling] | None = None,
        *,
        objective: Objective | Sequence[Objective] | None = None,
        n: int = 1,
        progress: bool = False,
        **template: Any,
    ) -> list[Completion]:
        """Answer one conversation or several, as lists of {"role": ..., "content": ...}.

        `template` options go to the chat template. Otherwise as `generate`.

        Raises:
            ValueError: the model has no chat template; or as `generate`.
        """
        chat = self._model.chat
        if chat is None:
            raise ValueError(
                f"model {self._model.name} has no chat template: pass chat_template, or use "
                "generate"
            )
        encode = self._model.tokenizer.encode
        texts = [chat.render(each, **template) for each in _conversations(messages)]
        prompts = [encode(text, add_special_tokens=False) for text in texts]
        return self.generate(prompts, sampling, objective=objective, n=n, progress=progress)

    def _encode(self, prompt: str | list[int]) -> tuple[int, ...]:
        if isinstance(prompt, str):
            return tuple(self._model.tokenizer.encode(prompt))
        return tuple(prompt)

    def _run(self, requests: Sequence[Request], progress: bool) -> dict[str, Delta]:
        """Step until all requests have ended; each one's news as one delta."""
        for request in requests:
            self._engine.check(request)
        for request in requests:
            self._engine.add(request)
        news: dict[str, Delta] = {}
        with tqdm(total=len(requests), unit="answer", disable=not progress) as bar:
            while self._engine.has_work:
                for delta in self._engine.step():
                    earlier = news.get(delta.request_id)
                    news[delta.request_id] = earlier.followed_by(delta) if earlier else delta
                    bar.update(delta.finish_reason is not None)
        return news


def engine_config(**options: Any) -> EngineConfig:
    """A configuration from the fields of its parts, by name.

    Raises:
        TypeError: no part has such a field.
    """

    def of(part: type) -> dict[str, Any]:
        names = {field.name for field in fields(part)}
        return {name: options.pop(name) for name in names & options.keys()}

    config = EngineConfig(
        model=ModelConfig(**of(ModelConfig)),
        cache=CacheConfig(**of(CacheConfig)),
        scheduler=SchedulerConfig(**of(SchedulerConfig)),
        cost=CostConfig(**of(CostConfig)),
        device=options.pop("device", "auto"),
        kernel_backend=options.pop("kernel_backend", None),
        threads=options.pop("threads", None),
        tensor_parallel_size=options.pop("tensor_parallel_size", 1),
    )
    if options:
        raise TypeError(f"there is no option {', '.join(sorted(options))}: see hfx.config")
    return config


def _prompts(prompts: Prompt | Sequence[Prompt]) -> list[str | list[int]]:
    """A list of prompts, also of one that stands alone."""
    if isinstance(prompts, str):
        return [prompts]
    ids = [prompt for prompt in prompts if isinstance(prompt, int)]
    if ids:
        return [ids]
    return [p if isinstance(p, str) else list(p) for p in prompts if not isinstance(p, int)]


def _conversations(
    messages: Sequence[Message] | Sequence[Sequence[Message]],
) -> list[list[dict[str, Any]]]:
    """A list of conversations, also of one that stands alone."""
    one = [dict(message) for message in messages if isinstance(message, Mapping)]
    if one:
        return [one]
    return [[dict(m) for m in each] for each in messages if not isinstance(each, Mapping)]


def _one_each(name: str, given: T | Sequence[T], kind: type[T], prompts: int) -> Sequence[T]:
    """What was given for each prompt, or for all."""
    if isinstance(given, kind):
        return [given] * prompts
    each: Sequence[T] = given  # type: ignore[assignment]
    if len(each) != prompts:
        raise ValueError(f"{len(each)} {name} for {prompts} prompts: give one for each")
    return each


def _sample(sampling: Sampling, index: int) -> Sampling:
    if sampling.seed is None or index == 0:
        return sampling
    return replace(sampling, seed=sampling.seed + index)


def _completion(request: Request, index: int, delta: Delta) -> Completion:
    assert delta.finish_reason is not None
    return Completion(
        request.prompt_token_ids,
        index,
        delta.text,
        delta.token_ids,
        delta.logprobs,
        delta.finish_reason,
        delta.stop_reason,
        delta.cached_tokens,
        delta.times,
        delta.error,
        verdict(delta),
    )
