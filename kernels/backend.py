"""Which back ends there are, and which one answers a request for a device and a type."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from .batch import AttentionSpec
from .operators import Operators

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Backend:
    """A back end as data: where it runs, in which types, and how to load it.

    `devices` holds torch device types and `dtypes` element types; empty means any. `load` raises
    ImportError, saying why, on a machine that can't run it. Only an `automatic` one is chosen
    without being named.
    """

    name: str
    load: Callable[[torch.device], Operators]
    devices: tuple[str, ...] = ()
    dtypes: tuple[torch.dtype, ...] = ()
    automatic: bool = True

    def objection(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why it can't serve this device and type, or None; loads nothing."""
        if self.devices and device.type not in self.devices:
            return f"runs on {', '.join(self.devices)}, not on {device.type}"
        if self.dtypes and dtype not in self.dtypes:
            return f"computes in {', '.join(map(str, self.dtypes))}, not in {dtype}"
        return None


def backends() -> tuple[Backend, ...]:
    """All of them, in the order in which automatic choice tries them."""
    return _BACKENDS


def select(
    name: str | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    spec: AttentionSpec | None = None,
) -> Operators:
    """The operators of the back end called `name`, or else of the first that can run.

    With a `spec`, the back end must be able to run attention of that shape too. The "cpu" one uses
    as many threads as torch is set to at this moment. The choice is logged, once.

    Raises:
        ValueError: no back end has that name.
        RuntimeError: it, or every one, is unable; the message lists what there is and why not.
    """
    device = torch.device(device)
    known = {backend.name: backend for backend in _BACKENDS}
    if name is not None and name not in known:
        raise ValueError(f"kernel back end {name!r} does not exist: there are {', '.join(known)}")
    passed_over = ""
    for backend in [known[name]] if name else [b for b in _BACKENDS if b.automatic]:
        found = _attempt(backend, device, dtype, spec)
        if isinstance(found, Operators):
            _log_choice(backend.name, device, dtype, passed_over)
            return found
        passed_over += f"; not {backend.name!r}, which {found}"
    raise RuntimeError(
        f"kernel back end {name or '(any)'} cannot run {dtype} on {device}. There are: "
        + "; ".join(_standing(backend, device, dtype, spec) for backend in _BACKENDS)
    )


def _standing(
    backend: Backend, device: torch.device, dtype: torch.dtype, spec: AttentionSpec | None
) -> str:
    found = _attempt(backend, device, dtype, spec)
    return f"{backend.name} ({'able' if isinstance(found, Operators) else found})"


def _attempt(
    backend: Backend, device: torch.device, dtype: torch.dtype, spec: AttentionSpec | None
) -> Operators | str:
    """The operators, or why not."""
    objection = backend.objection(device, dtype)
    if objection is not None:
        return objection
    try:
        operators = backend.load(device)
    except ImportError as error:
        return str(error)
    return (spec and operators.objection(spec)) or operators


@cache
def _log_choice(name: str, device: torch.device, dtype: torch.dtype, passed_over: str) -> None:
    logger.info("kernels of back end %r on %s in %s%s", name, device, dtype, passed_over)


def _load_cpu(device: torch.device) -> Operators:
    from .cpu import CpuOperators

    return CpuOperators()


def _load_torch(device: torch.device) -> Operators:
    from .fallback import TorchOperators

    return TorchOperators(device)


def _load_reference(device: torch.device) -> Operators:
    from .reference import ReferenceOperators

    return ReferenceOperators()


_BACKENDS = (
    Backend("cpu", _load_cpu, devices=("cpu",), dtypes=(torch.bfloat16, torch.float32)),
    Backend("torch", _load_torch),
    Backend("reference", _load_reference, devices=("cpu",), automatic=False),
)
