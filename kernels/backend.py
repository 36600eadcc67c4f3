"""Which back ends there are, and which one answers a request for a device and a type."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch

from .batch import AttentionSpec
from .operators import Operators

logger = logging.getLogger(__name__)

HALVES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class Backend:
    """A back end as data: where it runs, in which types, and how to load it.

    `devices` holds torch device types and `dtypes` element types; empty means any. `load` raises
    ImportError, saying why, on a machine that can't run it. Only an `automatic` one is chosen
    without being named, and none on a device type in `emulated_on`, where it runs for tests.
    """

    name: str
    load: Callable[[torch.device], Operators]
    devices: tuple[str, ...] = ()
    dtypes: tuple[torch.dtype, ...] = ()
    automatic: bool = True
    emulated_on: tuple[str, ...] = ()

    def objection(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why it can't serve this device and type, or None; loads nothing."""
        if self.devices and device.type not in self.devices + self.emulated_on:
            return f"runs on {', '.join(self.devices)}, not on {device.type}"
        if self.dtypes and dtype not in self.dtypes:
            return f"computes in {', '.join(map(str, self.dtypes))}, not in {dtype}"
        return None

    def is_automatic_on(self, device: torch.device) -> bool:
        """Whether it may be chosen there without being named."""
        return self.automatic and (not self.devices or device.type in self.devices)


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
    device = _device(device)
    known = {backend.name: backend for backend in _BACKENDS}
    if name is not None and name not in known:
        raise ValueError(f"kernel back end {name!r} does not exist: there are {', '.join(known)}")
    passed_over = ""
    unnamed = [backend for backend in _BACKENDS if backend.is_automatic_on(device)]
    for backend in [known[name]] if name else unnamed:
        found = _attempt(backend, device, dtype, spec)
        if isinstance(found, Operators):
            _log_choice(backend.name, device, dtype, passed_over)
            return found
        passed_over += f"; not {backend.name!r}, which {found}"
    raise RuntimeError(
        f"kernel back end {name or '(any)'} cannot run {dtype} on {device}. There are: "
        + "; ".join(_standing(backend, device, dtype, spec) for backend in _BACKENDS)
    )


def _device(device: str | torch.device) -> torch.device:
    if isinstance(device, str) and device.partition(":")[0] == "npu":
        from .npu.library import import_torch_npu

        try:
            import_torch_npu()
        except ImportError as error:
            raise RuntimeError(f"device {device!r} {error}") from error
    return torch.device(device)


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


def _load_triton(device: torch.device) -> Operators:
    # Triton decides at its first import whether it interprets: not to be imported in vain.
    if device.type == "cpu" and not os.environ.get("TRITON_INTERPRET"):
        raise ImportError("runs on cpu only under Triton's interpreter: set TRITON_INTERPRET=1")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ImportError("finds no GPU: torch.cuda.is_available() is false")
    if find_spec("triton") is None:
        raise ImportError("needs the package triton, which isn't installed")
    from .gpu import TritonOperators

    return TritonOperators(device)


def _load_flash_attn(device: torch.device) -> Operators:
    from .optional import flash_attn

    return flash_attn.load(device)


def _load_flashinfer(device: torch.device) -> Operators:
    from .optional import flashinfer

    return flashinfer.load(device)


def _load_fused_infer(device: torch.device) -> Operators:
    from .npu import load

    return load(device)


def _load_triton_ascend(device: torch.device) -> Operators:
    if find_spec("triton") is None:
        raise ImportError("needs triton-ascend 3.2.0, which isn't installed")
    from .npu.attend import load

    return load(device)


def _load_torch(device: torch.device) -> Operators:
    from .fallback import TorchOperators

    return TorchOperators(device)


def _load_reference(device: torch.device) -> Operators:
    from .reference import ReferenceOperators

    return ReferenceOperators()


# On a GPU our own kernels come first: they take every feature, and fixed splits. On an NPU the
# vendor's call does: Triton's attention is reported to be slow there.
_BACKENDS = (
    Backend("cpu", _load_cpu, devices=("cpu",), dtypes=(torch.bfloat16, torch.float32)),
    Backend(
        "triton",
        _load_triton,
        devices=("cuda",),
        dtypes=(torch.bfloat16, torch.float16, torch.float32),
        emulated_on=("cpu",),
    ),
    Backend("flash_attn", _load_flash_attn, devices=("cuda",), dtypes=HALVES),
    Backend("flashinfer", _load_flashinfer, devices=("cuda",), dtypes=HALVES),
    Backend("fused_infer", _load_fused_infer, devices=("npu",), dtypes=HALVES),
    Backend("triton_ascend", _load_triton_ascend, devices=("npu",), dtypes=HALVES),
    Backend("torch", _load_torch),
    Backend("reference", _load_reference, devices=("cpu",), automatic=False),
)
