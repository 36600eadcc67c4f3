"""How long prompts and outputs are: from quantiles of published traces, or a trace's rows. Tokens.

Each table has quantiles of the prompts' lengths, and of the outputs' for each fifth of the prompts,
shortest first. From the Azure LLM inference dataset 2023 (CC-BY 4.0), Mooncake's conversation
trace (Apache-2.0), and the lengths of arXiv summarizations and of ShareGPT's conversations in
Etalon's repository (Apache-2.0); Azure's one prompt of more than 8,192 tokens is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hfx.traces import Row

SHARES = (0, 1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 100)  # percent
FIFTHS = 5


class LengthSource(Protocol):
    """Where lengths come from."""

    def draw(self, rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
        """Pairs of (prompt, output) tokens."""
        ...


class RowLengths:
    """Lengths of a trace's own rows, each as likely as the other, prompt and output together.

    Raises:
        ValueError: there are no rows.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        if not rows:
            raise ValueError("no row of the trace has lengths of this class: take another trace")
        self._pairs = [(row.input_tokens, row.output_tokens) for row in rows]

    def draw(self, rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
        """Pairs of (prompt, output) tokens."""
        return [self._pairs[n] for n in rng.integers(0, len(self._pairs), count).tolist()]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of prompts and, by fifth of the prompts, of outputs, at `SHARES`."""

    prompt_tokens: tuple[int, ...]
    output_tokens: tuple[tuple[int, ...], ...]

    def draw(self, rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
        """Pairs of (prompt, output) tokens."""
        at = rng.uniform(0.0, 100.0, (count, 2))
        prompts = np.interp(at[:, 0], SHARES, self.prompt_tokens)
        outputs = np.empty(count)
        fifth = np.minimum((at[:, 0] * FIFTHS / 100).astype(int), FIFTHS - 1)
        for n, quantiles in enumerate(self.output_tokens):
            chosen = fifth == n
            outputs[chosen] = np.interp(at[chosen, 1], SHARES, quantiles)
        pairs = zip(np.rint(prompts), np.rint(outputs), strict=True)
        return [(max(1, int(prompt)), max(1, int(output))) for prompt, output in pairs]


# fmt: off
AZURE_CONV = Lengths(
    (2, 29, 91, 181, 207, 387, 403, 703, 1020, 1071, 1130, 1315, 2733, 4083, 4098, 4142, 7930),
    (
        (7, 12, 12, 16, 24, 63, 75, 87, 106, 133, 162, 179, 212, 217, 224, 262, 1000),
        (24, 52, 57, 73, 80, 86, 90, 93, 97, 101, 107, 117, 135, 148, 168, 184, 739),
        (10, 40, 49, 76, 95, 375, 390, 396, 399, 409, 415, 429, 461, 532, 601, 639, 1000),
        (26, 44, 50, 79, 139, 375, 388, 396, 401, 411, 418, 429, 479, 551, 618, 654, 1000),
        (15, 27, 28, 34, 39, 48, 56, 67, 78, 92, 108, 133, 168, 203, 274, 407, 918),
    ),
)
AZURE_CONV_SHORT = Lengths(
    (2, 14, 24, 91, 181, 201, 222, 374, 386, 395, 400, 406, 416, 428, 443, 457, 512),
    (
        (11, 12, 12, 12, 53, 93, 113, 131, 150, 163, 177, 192, 217, 217, 224, 241, 255),
        (14, 14, 14, 14, 18, 52, 67, 79, 99, 138, 162, 179, 217, 217, 217, 217, 254),
        (7, 38, 46, 52, 58, 66, 73, 79, 85, 89, 93, 99, 111, 126, 145, 154, 196),
        (36, 60, 71, 79, 83, 88, 92, 95, 99, 103, 109, 120, 135, 147, 163, 171, 200),
        (25, 55, 64, 77, 82, 87, 91, 95, 98, 102, 108, 118, 139, 152, 174, 188, 225),
    ),
)
AZURE_CODE = Lengths(
    (3, 17, 35, 75, 147, 386, 770, 1075, 1469, 1909, 2433, 3192, 5188, 7303, 7436, 7436, 7437),
    (
        (6, 6, 6, 6, 7, 8, 10, 12, 14, 16, 19, 28, 54, 88, 137, 233, 1899),
        (6, 6, 6, 6, 7, 8, 10, 11, 13, 16, 21, 30, 57, 89, 173, 250, 841),
        (6, 6, 6, 6, 7, 8, 9, 11, 13, 16, 21, 30, 55, 86, 163, 233, 824),
        (6, 6, 6, 6, 7, 8, 9, 11, 12, 14, 18, 26, 53, 90, 176, 255, 940),
        (6, 6, 6, 6, 7, 8, 10, 11, 13, 16, 21, 30, 58, 101, 171, 289, 928),
    ),
)
ARXIV_SUMM = Lengths(
    (1, 73, 229, 749, 1242, 1802, 2150, 2453, 2730, 2996, 3249, 3490, 3702, 3813, 3892, 3933, 4054),
    (
        (10, 36, 42, 58, 77, 107, 131, 158, 190, 234, 318, 1195, 2775, 3272, 3645, 3780, 4056),
        (5, 34, 43, 58, 74, 98, 118, 138, 159, 182, 209, 250, 333, 427, 665, 923, 2125),
        (17, 36, 44, 59, 78, 104, 125, 145, 166, 190, 217, 256, 323, 399, 578, 746, 1558),
        (11, 38, 47, 64, 82, 108, 129, 150, 172, 196, 224, 265, 332, 402, 515, 616, 1022),
        (12, 37, 47, 64, 82, 105, 122, 139, 158, 177, 201, 231, 278, 324, 381, 422, 539),
    ),
)
MOONCAKE = Lengths(
    (891, 894, 896, 901, 964, 1662, 3263, 4993, 6909, 9570, 13196, 17869, 27367, 39550, 66449,
     85400, 126195),
    (
        (1, 3, 3, 9, 21, 55, 138, 223, 300, 363, 421, 482, 574, 657, 791, 883, 2000),
        (1, 3, 4, 12, 29, 111, 220, 295, 352, 405, 457, 520, 630, 738, 915, 1128, 2000),
        (1, 3, 3, 10, 26, 114, 218, 293, 352, 400, 442, 495, 568, 661, 820, 971, 2000),
        (1, 3, 3, 12, 28, 142, 249, 312, 361, 405, 447, 495, 576, 672, 889, 1045, 2000),
        (1, 1, 3, 8, 21, 103, 246, 318, 371, 417, 465, 527, 634, 773, 1201, 1992, 2000),
    ),
)
SHAREGPT_LONG = Lengths(  # outputs of 512 tokens and more
    (4, 13, 18, 29, 58, 345, 841, 1295, 1843, 2509, 3324, 4317, 5598, 6433, 6954, 7144, 7584),
    (
        (512, 514, 518, 531, 545, 580, 615, 652, 697, 756, 814, 871, 939, 970, 1003, 1012, 1024),
        (512, 514, 518, 525, 537, 568, 600, 634, 675, 722, 787, 859, 934, 982, 1008, 1017, 1024),
        (512, 516, 518, 528, 544, 581, 618, 652, 703, 751, 806, 869, 941, 977, 1001, 1010, 1023),
        (512, 517, 521, 531, 548, 587, 622, 664, 712, 776, 826, 887, 954, 982, 1005, 1013, 1023),
        (512, 515, 517, 528, 541, 584, 622, 664, 711, 765, 828, 882, 946, 978, 1003, 1012, 1024),
    ),
)
# fmt: on
