"""What must be settled before any test module is imported."""

from __future__ import annotations

import os
from importlib.util import find_spec

# Triton decides at its first import whether it compiles or interprets, and libraries that tests
# compare with import it too. Here it interprets; only the tests that want it are told so.
if find_spec("triton") is not None:
    os.environ["TRITON_INTERPRET"] = "1"
    import triton  # noqa: F401

    del os.environ["TRITON_INTERPRET"]
