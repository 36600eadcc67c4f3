"""Hearing of every compilation of a Triton kernel, and under the interpreter of every one that a
GPU would have made: a launch whose specialisation was not seen before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from triton.runtime.jit import JITFunction

try:
    from triton import knobs
except ImportError:  # Ascend's is older
    knobs = None

Hear = Callable[[str], None]
TARGET = ("cuda", 90, 32)  # whose rules of specialisation the interpreter's launches are held to


def watch(hear: Hear) -> Watch | None:
    """Tell `hear` of compilations from now on; under the interpreter, by the watch returned."""
    if knobs is None:
        JITFunction.compiled_hook = _hook(hear, JITFunction.compiled_hook)
        return None
    if knobs.runtime.interpret:
        return Watch(hear)
    knobs.runtime.jit_post_compile_hook = _hook(hear, knobs.runtime.jit_post_compile_hook)
    return None


def _hook(hear: Hear, before: Any) -> Callable[..., Any]:
    """Triton's hook: called once a kernel is compiled, or read from its cache on disk."""

    def hook(**compiled: Any) -> Any:
        hear(compiled["repr"])
        return None if before is None else before(**compiled)

    return hook


class Watch:
    """Listens to the interpreter's launches of this package's kernels, until it is closed.

    Keys are those that Triton's own binder makes for `TARGET`, without the options of a launch,
    which follow from the constants here.
    """

    def __init__(self, hear: Hear) -> None:
        self._hear = hear
        self._seen: set[str] = set()
        self._hooked: list[tuple[list[Any], Any]] = []
        for kernel in kernels():
            hook = self._hook_of(kernel)
            kernel.add_pre_run_hook(hook)
            self._hooked.append((kernel.pre_run_hooks, hook))

    def close(self) -> None:
        """Stop listening."""
        for hooks, hook in self._hooked:
            hooks.remove(hook)
        self._hooked.clear()

    def _hook_of(self, kernel: Any) -> Callable[..., None]:
        bind = _binder(kernel)

        def hook(*args: Any, **kwargs: Any) -> None:
            _, specialization, _ = bind(*args, **kwargs)
            key = f"{kernel.fn.__qualname__}{specialization}"
            if key not in self._seen:
                self._seen.add(key)
                self._hear(key)

        return hook


def kernels() -> Iterator[Any]:
    """Every jitted function of this package, under the interpreter."""
    from triton.runtime.interpreter import InterpretedFunction

    from . import attend, cache, ffn, norm, rope, sample

    for module in (attend, cache, ffn, norm, rope, sample):
        for value in vars(module).values():
            if isinstance(value, InterpretedFunction) and value.fn.__module__ == module.__name__:
                yield value


def _binder(kernel: Any) -> Any:
    """What finds a launch's specialisation, as the compiler for `TARGET` would."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    jitted = JITFunction(kernel.fn)
    backend = make_backend(GPUTarget(*TARGET))
    return create_function_from_signature(jitted.signature, jitted.params, backend)
