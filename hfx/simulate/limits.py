"""What no policy can beat: requests that an idle replica would serve too late. Seconds, tokens.

`limits_fluid` bounds what a whole fleet can keep, `limits_clairvoyant` says what our own algorithm
keeps when it is told the future.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hfx.cost import StepCost
from hfx.request import Mix

from .device import Device
from .job import Job

STEP_TOKENS = 2048  # the most in a step of the policies that are compared


@dataclass(frozen=True, slots=True)
class Alone:
    """The times of a request that has a replica to itself."""

    ttft_s: float
    tpot_s: float
    latency_s: float


def alone(job: Job, device: Device, step_tokens: int = STEP_TOKENS) -> Alone:
    """What an idle device needs: the prompt in steps of at most `step_tokens`, then decodes."""
    prompt, steps = job.request.prompt_tokens, job.output_tokens - 1
    ttft_s = sum(
        device.step_s(Mix.one(min(step_tokens, prompt - done), done))
        for done in range(0, prompt, step_tokens)
    )
    if not steps:
        return Alone(ttft_s, 0.0, ttft_s)
    context = prompt + 1
    last_s = float(device.decode_ends_s(ttft_s, steps, 1, context, context * context)[-1])
    return Alone(ttft_s, (last_s - ttft_s) / steps, last_s)


def is_feasible_alone(
    job: Job, devices: Sequence[Device], kv_tokens: int, step_tokens: int = STEP_TOKENS
) -> bool:
    """Whether one of the devices, if it were idle, would keep the job's promise."""
    if job.request.prompt_tokens + job.output_tokens > kv_tokens:
        return False
    promise = job.request.objective
    for device in devices:
        times = alone(job, device, step_tokens)
        if promise.is_met(times.ttft_s, times.tpot_s, times.latency_s):
            return True
    return False


def feasible_alone(
    jobs: Iterable[Job],
    profiles: Iterable[StepCost],
    *,
    kv_tokens: int = 500_000,
    step_tokens: int = STEP_TOKENS,
) -> frozenset[str]:
    """The ids of those whose promise an idle replica of one of the profiles would keep.

    A bound for every policy whose steps hold at most `step_tokens` tokens, as long as a chunk of a
    prompt costs no less per token than that.
    """
    devices = [Device(one) for one in {id(one): one for one in profiles}.values()]
    return frozenset(
        job.request.id for job in jobs if is_feasible_alone(job, devices, kv_tokens, step_tokens)
    )
