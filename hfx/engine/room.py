"""How soon a full queue has room again, by the prices of the work in it. Seconds."""

from collections.abc import Sequence as Sequence_
from itertools import islice

from hfx.cost import CostModel
from hfx.request import Mix

from .sequence import Sequence

LOOK_EVERY_S = 0.5  # prices and queues change slowly, and a flood of refusals asks often
SAMPLE = 32  # waiting requests that stand for all
FORGET = 0.05  # share of the newest in the mean length of outputs


class Room:
    """What the next place in the queue will cost, as last looked at; written by one thread only."""

    def __init__(self, cost: CostModel | None) -> None:
        self._cost = cost
        self._looked_s = -LOOK_EVERY_S
        self._output_tokens: float | None = None
        self.wait_s: float | None = None  # None: nobody knows

    def ended(self, output_tokens: int) -> None:
        """Learn how long outputs become."""
        mean = self._output_tokens
        self._output_tokens = (
            output_tokens if mean is None else mean + FORGET * (output_tokens - mean)
        )

    def look(
        self, now_s: float, running: Sequence_[Sequence], waiting: Sequence_[Sequence]
    ) -> None:
        """Work out what one more request to leave the queue takes, unless that was just done.

        In the long run one starts whenever one is done, and a request is done for the seconds of
        its own prompt and its share of the steps that write its output.
        """
        if self._cost is None or not waiting or now_s < self._looked_s + LOOK_EVERY_S:
            return
        self._looked_s = now_s
        mix = Mix.of((1, max(1, len(s.token_ids) - 1)) for s in running)
        token_s = self._cost.step_s(mix).mean_s / mix.decodes if mix.decodes else 0.0
        sample = list(islice(waiting, SAMPLE))
        total_s = sum(self._own_s(sequence, token_s) for sequence in sample)
        self.wait_s = total_s / len(sample)

    def _own_s(self, sequence: Sequence, token_s: float) -> float:
        assert self._cost is not None
        live, hint = sequence.live, sequence.request.expected_output_tokens
        expected = sequence.max_tokens if self._output_tokens is None else self._output_tokens
        left = max(1.0, min(hint or expected, sequence.max_tokens) - live.output_tokens)
        return self._cost.step_s(Mix.one(live.known_tokens, 0)).mean_s + left * token_s
