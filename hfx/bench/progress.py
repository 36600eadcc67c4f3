"""Shows how a run goes: requests done, promises kept, refusals, time left."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from tqdm import tqdm

from .attainment import NO_TARGETS, Share
from .outcome import Outcome
from .workload import Prompt


class Progress:
    """A bar over one run. `kept` is the share of what has been answered so far."""

    def __init__(self, prompts: Sequence[Prompt], *, title: str = "", is_shown: bool) -> None:
        self._prompts = prompts
        self._judges = any(prompt.targets != NO_TARGETS for prompt in prompts)
        self._done = self._hits = self._refused = self._failed = 0
        self._bar = tqdm(total=len(prompts), disable=not is_shown, unit="req", desc=title or None)

    @property
    def kept(self) -> Share:
        return Share(self._hits, self._done)

    def done(self, i: int, outcome: Outcome) -> None:
        """Take in the outcome of prompt `i`."""
        self._done += 1
        self._hits += self._prompts[i].targets.are_kept(outcome)
        self._refused += outcome.was_refused
        self._failed += not outcome.success and not outcome.was_refused
        self._bar.update()
        if not self._bar.disable:
            self._bar.set_postfix_str(self._words(), refresh=False)

    def _words(self) -> str:
        words = [f"kept {self.kept.value:.1%}"] if self._judges else []
        words += [f"refused {self._refused}"] if self._refused else []
        words += [f"failed {self._failed}"] if self._failed else []
        return ", ".join(words)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()
