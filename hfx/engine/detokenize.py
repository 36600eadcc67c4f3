"""Turns tokens into text as they come: whole characters only, and nothing of a stop string.

Text is decided when no later token can change it. Sizes are tokens, positions are characters.
"""

from collections.abc import Callable, Sequence

from hfx.request import Sampling

REPLACEMENT = "\ufffd"  # what decoders put for bytes that are no character, or not yet one
PROMPT_TAIL_TOKENS = 6  # enough that the last prompt character is whole
PATIENCE_TOKENS = 16  # a character is at most 4 bytes: longer pending text is mostly plain garbage

Decode = Callable[[Sequence[int]], str]


class CharacterStream:
    """The text of a growing list of tokens, with the end held back while it is half a character.

    `decode` turns token ids into text. What a token contributes depends on its neighbours (bytes of
    one character, a leading space that only the first word loses), so each new token is decoded
    behind the ones last shown, and what exceeds their text is new.
    """

    def __init__(self, decode: Decode, prompt_tail: Sequence[int] = ()) -> None:
        self._decode = decode
        self._ids = list(prompt_tail)
        self._context_text = decode(self._ids) if self._ids else ""
        if self._context_text.endswith(REPLACEMENT):  # it ends inside a character
            self._ids, self._context_text = [], ""
        self._context = len(self._ids)

    def push(self, token_id: int) -> str:
        """The text that is decided because of this token; often one word, sometimes none."""
        self._ids.append(token_id)
        text = self._decode(self._ids)
        if text.endswith(REPLACEMENT):
            return self._split(text) if self._pending >= PATIENCE_TOKENS else ""
        if len(text) <= len(self._context_text):
            if self._context_text and self._pending == 1:
                self._ids.pop()  # a skipped special token: a run of them must not pile up
            return ""
        return self._show(text)

    def flush(self) -> str:
        """What is still held back, as it stands: the output ends here."""
        return self._show(self._decode(self._ids)) if self._pending else ""

    @property
    def _pending(self) -> int:
        return len(self._ids) - self._context

    def _show(self, text: str) -> str:
        new = text[len(self._context_text) :]
        del self._ids[: self._context]
        self._context = len(self._ids)
        self._context_text = self._decode(self._ids)
        return new

    def _split(self, text: str) -> str:
        """Show all but a last few tokens, if there is a cut that is within no character."""
        for cut in range(len(self._ids) - 1, len(self._ids) - 4, -1):
            head = self._decode(self._ids[:cut])
            if head + self._decode(self._ids[cut:]) == text:
                new = head[len(self._context_text) :]
                del self._ids[:cut]
                self._context, self._context_text = 0, ""
                return new
        return ""


class StopFilter:
    """Passes text on up to the first stop string, holding back what may be the start of one.

    The stop string that is complete first ends the text; of two complete at once, the longer. So
    the outcome doesn't depend on how the text was cut into pieces.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        self._stops = tuple(stops)
        self._include = include
        self._held = ""
        self.stopped_by: str | None = None

    def push(self, text: str) -> str:
        """What can be shown of the text so far and was not yet."""
        if self.stopped_by is not None:
            return ""
        text = self._held + text
        start, end = self._first_match(text)
        if self.stopped_by is not None:
            self._held = ""
            return text[: end if self._include else start]
        keep = self._undecided(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What is held back: no more text will complete a stop string."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, text: str) -> tuple[int, int]:
        matches = ((text.find(stop), stop) for stop in self._stops)
        found = [(at + len(stop), at, stop) for at, stop in matches if at >= 0]
        if not found:
            return 0, 0
        end, start, self.stopped_by = min(found)
        return start, end

    def _undecided(self, text: str) -> int:
        """Length of the longest end of the text that a stop string could begin with."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:size]):
                    longest = size
                    break
        return longest


class TextStream:
    """The text of one request's output: characters whole, stop strings heeded.

    `stopped_by` is the stop string that has ended it. Stop strings count from `min_tokens` on.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int], bool], str],
        sampling: Sampling,
        prompt_token_ids: Sequence[int] = (),
    ) -> None:
        skip = sampling.skip_special_tokens
        tail = prompt_token_ids[-PROMPT_TAIL_TOKENS:]
        self._characters = CharacterStream(lambda ids: decode(ids, skip), tail)
        self._stops = StopFilter(sampling.stop, include=sampling.include_stop_str_in_output)
        self._min_tokens = sampling.min_tokens

    @property
    def stopped_by(self) -> str | None:
        return self._stops.stopped_by

    def push(self, token_id: int, output_tokens: int) -> str:
        """Text to show because of output token number `output_tokens` (1 is the first)."""
        text = self._characters.push(token_id)
        return self._stops.push(text) if output_tokens > self._min_tokens else text

    def flush(self) -> str:
        """The rest of the text: the output ends here. Shows nothing after a stop string."""
        if self.stopped_by is not None:
            return ""
        text = self._stops.push(self._characters.flush())
        return text + self._stops.flush()
