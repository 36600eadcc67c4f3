"""Kernels through the real Ascend compilers without a device: Triton, linalg, planned HIVM.

Needs the packages of requirements/ascend.txt, which replace triton: an environment of its own.
`bishengir-compile` plans memory and then fails where it looks for CANN's code generator, `hivmc`.
"""

import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import ascendnpuir
from triton._C.libtriton import ir
from triton.backends.ascend import compiler as ascend
from triton.compiler.compiler import ASTSource, GPUTarget, make_backend

KERNELS = Path(__file__).parent.parent / "kernels"
PACKAGE = "ascend_kernels"
# what modules with kernels import for the launchers beside them, which run nowhere here
LAUNCHERS_NEED = ("torch", f"{PACKAGE}.gpu.configs", f"{PACKAGE}.draws")
OPTIONS = (
    "--enable-auto-multi-buffer=True",
    "--enable-auto-bind-sub-block=True",
    "--enable-hfusion-compile=true",
    "--enable-hivm-compile=true",
    "--enable-triton-kernel-compile=true",
)
STOPS_AT = "hivmc"
LONGEST_S = 300


class CompileError(Exception):
    """A kernel that doesn't compile; the message is the compiler's."""


def kernels(module: str) -> ModuleType:
    """A module of kernels, like "gpu.attend", without its packages, whose launchers need torch."""
    for name, folder in (("", ""), (".gpu", "gpu"), (".npu", "npu")):
        package = sys.modules.setdefault(PACKAGE + name, ModuleType(PACKAGE + name))
        package.__path__ = [str(KERNELS / folder)]
    for name in LAUNCHERS_NEED:
        sys.modules.setdefault(name, _Anything(name))
    return import_module(f"{PACKAGE}.{module}")


class _Anything(ModuleType):
    """A module that has every name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


def planned(kernel: Any, signature: dict[str, str], constants: dict[str, Any], chip: str) -> str:
    """The kernel as HIVM with an address for every buffer.

    Raises:
        CompileError: some stage refuses it; for an overflow, with the bytes it needed.
    """
    linalg, _ = ascend._parse_linalg_metadata(_linalg(kernel, signature, constants, chip), {})
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.mlir")
        source.write_text(linalg)
        command = [_compiler(), source, f"--target={chip}", *OPTIONS]
        command += [f"--save-temps={folder}", "-o", Path(folder, "kernel")]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S)
        except subprocess.TimeoutExpired as error:
            raise CompileError(f"bishengir-compile took more than {LONGEST_S} s") from error
        hivm = Path(folder, "module.hivm.opt.mlir")
        if STOPS_AT not in done.stderr or not hivm.exists():
            raise CompileError(done.stderr.strip() or f"ended with {done.returncode}")
        return hivm.read_text()


def _linalg(kernel: Any, signature: dict[str, str], constants: dict[str, Any], chip: str) -> str:
    target = GPUTarget("npu", chip, 0)
    backend = make_backend(target)
    options = backend.parse_options({})
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    metadata = {"hash": "", "target": target, **options.__dict__}
    functions = backend.get_codegen_implementation(), backend.get_module_map()
    try:
        module = ASTSource(kernel, signature, constants).make_ir(options, *functions, context)
        module = ascend.make_ttir(module, metadata, options)
        return ascend.ttir_to_linalg(module, metadata, options, named_ops=True)
    except subprocess.CalledProcessError as error:
        raise CompileError(error.stderr.decode().strip()) from error
    except Exception as error:  # Triton's front end raises many kinds, each around the next
        raise CompileError(_innermost(error)) from error


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def _compiler() -> str:
    return os.path.join(next(iter(ascendnpuir.__path__)), "bin", "bishengir-compile")
