"""The wheel holds everything that the folders do, and works far from them."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"hfx": "hfx", "kernels": "hfx/kernels", "scheduler": "hfx/scheduler"}
FOLDERS["scaler"] = "hfx/scaler"
BUILT_FROM = ("setup.py", "pyproject.toml", "CMakeLists.txt", "MANIFEST.in", "README.md", "LICENSE")
PACKAGED = (".py", ".pyi", ".json", ".typed")

pytestmark = pytest.mark.slow


def sources() -> Iterator[tuple[Path, str]]:
    """Every file of the four folders that a wheel should hold, and its place there."""
    for folder, place in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):  # does not follow links
            if path.suffix in PACKAGED:
                yield path, f"{place}/{path.relative_to(ROOT / folder)}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that what older builds left behind does not count."""
    copy, made = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("made")
    is_made_here = shutil.ignore_patterns("__pycache__", "*.so")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=is_made_here)
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, copy)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    scripts = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    subprocess.run([*pip, "--wheel-dir", made, copy], check=True, env=os.environ | scripts)
    (found,) = made.iterdir()
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds nothing but the wheel's content."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_every_source_stub_and_data_file_is_in_the_wheel(installed: Path) -> None:
    wanted = {place for _, place in sources()}

    missing = {place for place in wanted if not (installed / place).is_file()}

    assert missing == set()
    assert {"hfx/py.typed", "hfx/kernels/_cpu.pyi", "hfx/serve/__main__.py"} <= wanted
    assert len(list((installed / "hfx/kernels").glob("_cpu.*.so"))) == 1


def test_nothing_else_is_in_the_wheel(installed: Path) -> None:
    (metadata,) = installed.glob("hfx-*.dist-info")
    wanted = {installed / place for _, place in sources()}

    found = {path for path in installed.rglob("*") if path.is_file()}
    other = {path for path in found - wanted if metadata not in path.parents}

    assert [path.name.split(".")[0] for path in other] == ["_cpu"]
    assert (metadata / "licenses" / "LICENSE").is_file()


@pytest.mark.parametrize(
    "program",
    [
        "import hfx, hfx.scheduler, hfx.scaler, hfx.cost; print(hfx.__file__)",
        "import hfx.kernels; hfx.kernels.select('cpu'); print(hfx.kernels.__file__)",
        "import hfx.engine.llm, hfx.serve.server, hfx.bench.cli; print(hfx.serve.__file__)",
    ],
)
def test_it_imports_from_another_folder(program: str, installed: Path, tmp_path: Path) -> None:
    here = os.environ | {"PYTHONPATH": str(installed)}

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=here, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(installed)
