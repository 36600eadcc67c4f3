"""Public names resolve, and the planning layers load without torch."""

import importlib
import subprocess
import sys

import pytest

PLANNING = (
    "hfx",
    "hfx.request",
    "hfx.config",
    "hfx.clock",
    "hfx.cost",
    "hfx.cache",
    "hfx.scheduler",
    "hfx.scaler",
    "hfx.engine",
    "hfx.engine.engine",
    "hfx.engine.async_engine",
    "hfx.engine.emulate",
    "hfx.engine.launch",
    "hfx.models.words",
    "hfx.serve.server",
    "hfx.simulate",
    "hfx.simulate.cli",
)


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", PLANNING)
def test_a_planning_layer_loads_no_torch(name: str) -> None:
    assert run(f"import sys, {name}; print('torch' in sys.modules)") == "False"


@pytest.mark.parametrize(
    "name", ["hfx", "hfx.engine", "hfx.models", "hfx.scheduler", "hfx.cache", "hfx.cost"]
)
def test_every_public_name_resolves(name: str) -> None:
    module = importlib.import_module(name)

    assert {public for public in module.__all__ if not hasattr(module, public)} == set()
    assert set(module.__all__) <= set(dir(module))


@pytest.mark.parametrize("name", ["hfx", "hfx.engine", "hfx.models"])
def test_an_unknown_name_is_an_attribute_error_that_names_it(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'Nothing'"):
        _ = importlib.import_module(name).Nothing
