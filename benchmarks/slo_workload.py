"""The three tiers of the multi-SLO benchmark, their targets, and what arrives when.

Lengths are tokens, times seconds. A seed, a rate and a length of run name a workload: every policy
gets the same arrivals and the same prompts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hfx.bench.arrivals import arrival_times_s
from hfx.bench.attainment import Targets
from hfx.bench.tiers import Tier, assign
from hfx.bench.workload import Prompt, TokenPool, trace_prompts

SPREAD = 0.5  # lengths are uniform within this share of their means
WARM_S = 4.0  # arrivals of the first seconds are load, but in no figure


@dataclass(frozen=True, slots=True)
class Class:
    """One tier: its share of arrivals, its mean lengths, its targets as multiples of the floor.

    The floor is this machine's own: TTFT of the tier's median prompt and TPOT, both idle. A tier
    with a deadline is promised that multiple of its whole idle time, and no TTFT or TPOT.
    """

    share: float
    input_len: int
    output_len: int
    priority: int  # in vLLM's sense, for the policies and servers that know nothing else
    ttft: float | None = None
    tpot: float | None = None
    deadline: float | None = None


# Short outputs, so that a run of 40 s on two cores has a hundred arrivals.
CLASSES: Mapping[str, Class] = {
    "interactive": Class(0.5, 150, 24, 0, ttft=5.0, tpot=4.0),
    "standard": Class(0.3, 300, 48, 1, ttft=10.0, tpot=8.0),
    "batch": Class(0.2, 600, 64, 2, deadline=15.0),
}


@dataclass(frozen=True, slots=True)
class Floor:
    """What this machine does when it is idle: TTFT by tier's median prompt, and TPOT."""

    ttft_s: Mapping[str, float]
    tpot_s: float

    def targets(self, name: str) -> Targets:
        """A tier's promises, to a tenth of a millisecond."""
        kind = CLASSES[name]
        ttft_s = self.ttft_s[name]
        whole_s = ttft_s + (kind.output_len - 1) * self.tpot_s
        return Targets(
            ttft_s=_times(kind.ttft, ttft_s),
            tpot_s=_times(kind.tpot, self.tpot_s),
            e2el_s=_times(kind.deadline, whole_s),
        )


def _times(factor: float | None, floor_s: float) -> float | None:
    return None if factor is None else round(factor * floor_s, 4)


def tiers(floor: Floor) -> list[Tier]:
    """The mix as the load generator has it."""
    made = []
    for name, kind in CLASSES.items():
        targets = floor.targets(name)
        limits = {"ttft": targets.ttft_s, "tpot": targets.tpot_s, "e2el": targets.e2el_s}
        made.append(
            Tier(
                name=name,
                share=kind.share,
                input_len=kind.input_len,
                output_len=kind.output_len,
                range_ratio=SPREAD,
                **{f"{key}_ms": value * 1e3 for key, value in limits.items() if value},
            )
        )
    return made


@dataclass(frozen=True, slots=True)
class Workload:
    """Prompts and when they are due. The first `WARM_S` seconds count in no figure."""

    prompts: Sequence[Prompt]
    arrivals_s: Sequence[float]

    def sent_to(self, policy: str) -> list[Prompt]:
        """With the fields that this policy or server reads: a tier's name, or a priority."""
        if policy in ("priority", "vllm-cpu"):
            bodies = [{"priority": CLASSES[prompt.tier].priority} for prompt in self.prompts]
        else:
            bodies = [{} for _ in self.prompts]
        if policy != "vllm-cpu":
            for body, prompt in zip(bodies, self.prompts, strict=True):
                body["service_tier"] = prompt.tier
        return [replace(p, body=body) for p, body in zip(self.prompts, bodies, strict=True)]


def workload(floor: Floor, pool: TokenPool, *, seed: int, rate: float, seconds: float) -> Workload:
    """Poisson arrivals at `rate` for `seconds` and the warm-up before them."""
    count = max(1, round(rate * (seconds + WARM_S)))
    rng = np.random.default_rng((seed, round(rate * 1e4)))
    chosen = assign(rng, tiers(floor), count)
    rows = [row for tier in chosen if (row := tier.draw(rng)) is not None]
    plain = trace_prompts(rng, rows, pool, as_text=False)
    prompts = [
        replace(prompt, tier=tier.name, targets=tier.targets)
        for prompt, tier in zip(plain, chosen, strict=True)
    ]
    # The pattern depends on the seed alone, so that a higher rate is the same one, faster.
    return Workload(prompts, arrival_times_s(np.random.default_rng((seed, 1)), [rate] * count))
