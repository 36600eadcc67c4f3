"""The state of one request in an engine: its tokens, the blocks it holds, the text so far.

Sizes are tokens. A sequence runs (holds blocks and a table row) or waits (holds none).
"""

from array import array
from dataclasses import dataclass

from hfx.cache import Holding, PrefixChain
from hfx.request import FinishReason, Request
from hfx.scheduler import Live

from .account import Account
from .delta import Delta, RequestTimes, TokenLogprob
from .detokenize import TextStream
from .draw import Draw, TokenCounts, has_penalties


@dataclass(frozen=True, slots=True)
class Past:
    """What has become of a request elsewhere: the output that its reader has, and when it came.

    `seed` is what its draws were made from there; None: as if it were new.
    """

    seed: str | None = None
    token_ids: tuple[int, ...] = ()
    first_token_s: float | None = None
    last_token_s: float | None = None


class Sequence:
    """One request on its way: changed by its engine only.

    `token_ids` is prompt and output; `cached_tokens` of them have keys and values in the cache.
    `live` is what policies are shown, kept up to date by whoever changes the sequence. `order`
    sorts by arrival. `eos_token_ids` end the output unless the request ignores them.
    """

    def __init__(
        self,
        request: Request,
        *,
        order: tuple[float, int],
        max_tokens: int,
        seed: str,
        eos_token_ids: frozenset[int],
        chain: PrefixChain,
        text: TextStream,
        account: Account,
    ) -> None:
        sampling = request.sampling
        self.request = request
        self.order = order
        self.max_tokens = max_tokens
        self.token_ids = array("i", request.prompt_token_ids)
        self.live = Live(request, 0, request.prompt_tokens, 0, 0, arrival_s=order[0])
        self.chain = chain
        self.holding = Holding()
        self.kept_blocks = 0
        self.table_row = -1
        self.text = text
        self.account = account
        self.hit_tokens = 0  # of the prompt, when it first ran
        self.scheduled_s: float | None = None
        self.finish_reason: FinishReason | None = None
        self.stop_reason: str | int | None = None
        self.error: str | None = None
        self._seed = seed
        self._eos = frozenset[int]() if sampling.ignore_eos else eos_token_ids
        self._enders = self._eos | frozenset(sampling.stop_token_ids)
        self._counts: TokenCounts | None = None
        if has_penalties(sampling):
            self._counts = TokenCounts(frozenset(request.prompt_token_ids))

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def output_tokens(self) -> int:
        return self.live.output_tokens

    @property
    def cached_tokens(self) -> int:
        return self.live.cached_tokens

    @property
    def is_finished(self) -> bool:
        return self.finish_reason is not None

    @property
    def expires_s(self) -> float | None:
        """When it ends, done or not; None where no deadline is hard."""
        objective = self.request.objective
        if objective.on_miss != "refuse" or objective.deadline_s is None:
            return None
        return self.live.arrival_s + objective.deadline_s

    def draw(self) -> Draw:
        """How its next token is to be chosen."""
        index = self.output_tokens
        too_early = index < self.request.sampling.min_tokens
        return Draw(
            self.request.sampling,
            self._seed,
            index,
            tuple(self._enders) if too_early else (),
            self._counts,
        )

    def append(self, token_id: int, now_s: float) -> str:
        """Take the token that was drawn; the text to show because of it, and maybe the end."""
        self.token_ids.append(token_id)
        live = self.live
        live.known_tokens += 1
        live.output_tokens += 1
        live.last_token_s = now_s
        if live.first_token_s is None:
            live.first_token_s = now_s
        self.account.token(live)
        if self._counts is not None:
            self._counts.output[token_id] += 1
        if self.output_tokens >= self.request.sampling.min_tokens and token_id in self._enders:
            return self._end_with_token(token_id)
        shown = self.text.push(token_id, self.output_tokens)
        if self.output_tokens >= self.max_tokens:
            self.finish_reason = FinishReason.LENGTH
            shown += self.text.flush()
        if self.text.stopped_by is not None:
            self.finish_reason, self.stop_reason = FinishReason.STOP, self.text.stopped_by
        return shown

    def resume(self, past: Past) -> None:
        """Go on behind output that was shown already; its keys and values are to be computed."""
        for count, token_id in enumerate(past.token_ids, start=1):
            self.token_ids.append(token_id)
            self.text.push(token_id, count)
            if self._counts is not None:
                self._counts.output[token_id] += 1
        live = self.live
        live.output_tokens = len(past.token_ids)
        live.known_tokens += live.output_tokens
        live.first_token_s, live.last_token_s = past.first_token_s, past.last_token_s
        if past.token_ids:
            self.account.redo_tokens = live.known_tokens

    def end(self, reason: FinishReason, error: str | None = None) -> None:
        """End from outside: aborted, expired, or failed."""
        self.finish_reason = reason
        self.error = error

    def delta(
        self,
        token_ids: tuple[int, ...] = (),
        text: str = "",
        logprobs: tuple[TokenLogprob, ...] | None = None,
    ) -> Delta:
        """News of this sequence, with its totals as they are now."""
        return Delta(
            self.request.id,
            token_ids,
            text,
            logprobs,
            self.finish_reason,
            self.stop_reason,
            self.request.prompt_tokens,
            self.output_tokens,
            self.hit_tokens,
            RequestTimes(
                self.order[0], self.scheduled_s, self.live.first_token_s, self.live.last_token_s
            ),
            self.live.preemptions,
            self.error,
            self.account if self.is_finished else None,
        )

    def _end_with_token(self, token_id: int) -> str:
        self.finish_reason = FinishReason.STOP
        shown = ""
        if token_id not in self._eos:
            self.stop_reason = token_id
            if self.request.sampling.include_stop_str_in_output:
                shown = self.text.push(token_id, self.output_tokens)
                self.stop_reason = self.text.stopped_by or token_id
        return shown + self.text.flush()
