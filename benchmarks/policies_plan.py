"""What the two suites run: groups of traffic and fleet, loads, policies, seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from hfx.scheduler.dispatch_names import DISPATCHERS

from .policies_cases import CLAIRVOYANT, FLUID, OWN, Case

LEVEL = 0.9  # of promises: what `REFERENCE` keeps at load 1
REFERENCE = "least_loaded+fcfs_2048"
COLLAPSING = "round_robin+fcfs_512"
LOADS = (0.6, 0.85, 1.0, 1.15)
SCALES = (1.0, 0.6)

# The strongest of `EVERY` on the open traces, over M1 to M3, both SLO scales and loads 0.6 to 1.15:
# by mean joint share, and whoever was best somewhere (prompts apart from streams at low load and
# tight targets, round robin under long prompts).
STRONGEST = (
    REFERENCE,
    "least_loaded+edf_2048",
    "least_loaded+srpf_2048",
    "round_robin+fcfs_2048",
    "arrow_like+fcfs_8192",
    "least_loaded+qoserve_like",
    "least_loaded+scorpio_like",
    "hfx_reconstruction",
)
_ALL = (
    *STRONGEST,
    *(f"least_loaded+fcfs_{chunk}" for chunk in (256, 512, 1024)),
    *(f"least_loaded+edf_{chunk}" for chunk in (512, 1024)),
    "least_loaded+srpf_1024",
    "least_loaded+scorpio_like_2048",
    *(f"round_robin+fcfs_{chunk}" for chunk in (256, 512, 1024)),
    *(f"power_of_two+{step}" for step in ("fcfs_512", "fcfs_2048", "qoserve_like")),
    "prefix_affinity+fcfs_2048",
    "llumnix_like+fcfs_2048",
    "arrow_like+fcfs_2048",
    "arrow_like+qoserve_like",
)
EVERY = tuple(name for name in _ALL if "+" not in name or name.partition("+")[0] in DISPATCHERS)


@dataclass(frozen=True, slots=True)
class Group:
    """Traffic and fleet that share a calibration."""

    mix: str
    cv: float = 1.0
    replicas: int = 4
    is_mixed: bool = False
    loads: tuple[float, ...] = LOADS
    scales: tuple[float, ...] = SCALES

    def __str__(self) -> str:
        fleet = f"N={self.replicas}{' mixed' if self.is_mixed else ''}"
        return f"{self.mix}, CV {self.cv:g}, {fleet}"


@dataclass(frozen=True, slots=True)
class Suite:
    """What is run. A run has about `requests` arrivals at load 1, within `shortest_s` and
    `longest_s`; `rounds` are the clairvoyant's at load 1.15, at 1.0 and below."""

    name: str
    groups: tuple[Group, ...]
    baselines: tuple[str, ...]
    seeds: int
    requests: float
    rounds: tuple[int, ...]
    shortest_s: float = 50.0
    longest_s: float = 300.0
    absolute_s: float = 300.0  # of runs at 28 and 32 per second, as the figures they are held to
    questions: int = 7  # of a calibration

    def seconds(self, rate: float) -> float:
        """How long requests arrive, in whole tens."""
        wanted = min(self.longest_s, max(self.shortest_s, self.requests / rate))
        return max(1.0, round(wanted, -1) if wanted >= 10 else round(wanted))

    def sized(self, requests: float) -> Suite:
        """The same with runs of another length, all in proportion."""
        factor = requests / self.requests
        return replace(
            self,
            requests=requests,
            shortest_s=factor * self.shortest_s,
            absolute_s=factor * self.absolute_s,
        )

    def rounds_at(self, load: float) -> int:
        """Of the clairvoyant run: most where it is asked for most."""
        behind = sum(load < other for other in (1.0, 1.15))
        return self.rounds[min(behind, len(self.rounds) - 1)]


QUICK = Suite(
    name="quick",
    groups=(
        Group("M1"),
        Group("M2"),
        Group("M3"),
        Group("M1", replicas=16, loads=(1.0, 1.15), scales=(1.0,)),
    ),
    baselines=STRONGEST,
    seeds=3,
    requests=1800,
    rounds=(3, 2, 1),
    longest_s=200.0,
)
_TRAFFIC = tuple((mix, cv) for cv in (1.0, 2.5) for mix in ("M1", "M2", "M3"))
FULL = Suite(  # about eight hours on two cores
    name="full",
    groups=(
        *(Group(mix, cv) for mix, cv in _TRAFFIC),
        *(Group(mix, cv, 16, loads=LOADS[2:]) for mix, cv in _TRAFFIC),
        *(Group(mix, cv, 16, is_mixed=True, loads=LOADS[2:]) for mix, cv in _TRAFFIC),
        *(Group(mix, cv, 64, loads=LOADS[2:], scales=SCALES[:1]) for mix, cv in _TRAFFIC),
    ),
    baselines=EVERY,
    seeds=5,
    requests=3000,
    rounds=(6, 4, 2),
)
SUITES = {suite.name: suite for suite in (QUICK, FULL)}


def case(
    group: Group, policy: str, scale: float, rate: float, seconds: float, seed: int, data: str
) -> Case:
    """A case of a group."""
    return Case(
        policy,
        group.mix,
        scale,
        group.cv,
        group.replicas,
        rate,
        seed,
        seconds,
        data,
        group.is_mixed,
    )


def policies(suite: Suite) -> tuple[str, ...]:
    """Every policy and limit of a point."""
    return (OWN, CLAIRVOYANT, FLUID, *suite.baselines)


@dataclass(frozen=True, slots=True)
class Point:
    """One load of a group at one SLO scale; `rate` is what that load is."""

    group: Group
    scale: float
    load: float
    rate: float
    seconds: float

    def __str__(self) -> str:
        return f"{self.group}, SLO x{self.scale:g}, load {self.load:g} ({self.rate:g}/s)"

    def cases(self, suite: Suite, policy: str, data: str) -> list[Case]:
        """One for each seed, the same arrivals for every policy."""
        rounds = suite.rounds_at(self.load) if policy == CLAIRVOYANT else 0
        found = [
            case(self.group, policy, self.scale, self.rate, self.seconds, seed, data)
            for seed in range(suite.seeds)
        ]
        return [replace(one, rounds=rounds) for one in found]


def points(suite: Suite, rates: dict[Group, float]) -> Iterator[Point]:
    """Every point of a suite, from each group's rate at load 1."""
    for group in suite.groups:
        for scale in group.scales:
            for load in group.loads:
                rate = float(f"{load * rates[group]:.4g}")
                yield Point(group, scale, load, rate, suite.seconds(rates[group]))


def absolute(suite: Suite) -> Sequence[Point]:
    """M1 at 28 and 32 per second, as the prototype's figures are."""
    group = Group("M1")
    return [Point(group, 1.0, 0.0, rate, suite.absolute_s) for rate in (28.0, 32.0)]


ABSOLUTE_POLICIES = {28.0: (REFERENCE, COLLAPSING), 32.0: (COLLAPSING, OWN)}
