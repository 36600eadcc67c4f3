"""Which device a replica runs on: the one that was asked for, or what is there and works."""

from __future__ import annotations

import logging
from importlib.util import find_spec

import torch

from hfx.kernels import select
from hfx.kernels.npu.library import import_torch_npu

logger = logging.getLogger(__name__)

ACCELERATORS = ("cuda", "npu")


def device_for(
    name: str, *, kernel_backend: str | None = None, dtype: torch.dtype = torch.bfloat16
) -> torch.device:
    """The device of that name; for "auto" the first accelerator that kernels run on, or the CPU.

    Raises:
        ValueError: it isn't there, or it is no device; the message says what was looked for and
            what to install.
    """
    if name == "cpu":
        return torch.device("cpu")
    if name in ACCELERATORS:
        why = absence(name)
        if why is not None:
            raise ValueError(f"device {name!r} can't be used: {why}")
        return torch.device(name, 0)
    if name != "auto":
        raise ValueError(f"device is {name!r}: it must be auto, cpu, {' or '.join(ACCELERATORS)}")
    for kind in ACCELERATORS:
        if _works(kind, kernel_backend, dtype):
            return torch.device(kind, 0)
    return torch.device("cpu")


def of_rank(device: torch.device, rank: int, ranks: int) -> torch.device:
    """The device of one of several ranks: accelerators in order, and one CPU for all.

    Raises:
        ValueError: there are fewer devices than ranks.
    """
    if device.type == "cpu":
        return device
    count = getattr(torch, device.type).device_count()
    if ranks > count:
        raise ValueError(
            f"tensor_parallel_size is {ranks}, and {count} {device.type} device"
            f"{'s are' if count > 1 else ' is'} visible: every rank needs one; make it at most "
            f"{count}, or make more visible"
        )
    return torch.device(device.type, rank)


def absence(name: str) -> str | None:
    """Why that kind of accelerator can't be used here, and what to do; None if it can."""
    return _no_gpu() if name == "cuda" else _no_npu()


def _works(kind: str, kernel_backend: str | None, dtype: torch.dtype) -> bool:
    if kind == "npu" and find_spec("torch_npu") is None:
        return False
    why = absence(kind)
    if why is not None:
        logger.debug("not %s: %s", kind, why)
        return False
    try:
        select(kernel_backend, device=torch.device(kind, 0), dtype=dtype)
    except RuntimeError as error:
        logger.warning("device %r is there and not used: %s", kind, error)
        return False
    return True


def _no_gpu() -> str | None:
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None and torch.version.hip is None:
        return (
            f"torch {torch.__version__} is built for CPUs only; install a build of torch for "
            "NVIDIA's CUDA or AMD's ROCm (pip install 'hfx[gpu]')"
        )
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    return (
        f"torch {torch.__version__}, built for {built}, finds no GPU; check that the driver is "
        "installed and new enough (nvidia-smi, rocm-smi), and that CUDA_VISIBLE_DEVICES or "
        "HIP_VISIBLE_DEVICES doesn't hide it"
    )


def _no_npu() -> str | None:
    try:
        library = import_torch_npu()
    except ImportError as error:
        return f"{error}; install CANN, and torch_npu beside its torch (pip install 'hfx[npu]')"
    if not library.npu.is_available():
        return (
            "torch_npu finds no NPU; check the driver (npu-smi info) and ASCEND_RT_VISIBLE_DEVICES"
        )
    library.npu.set_compile_mode(jit_compile=False)  # operators come compiled, whatever the shape
    return None
