"""Build hfx: present four top-level folders as one package and compile its CPU kernels."""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).parent.resolve()

# Import name -> folder.  A wheel maps these; an editable install links them under hfx/.
FOLDERS = {
    "hfx": "hfx",
    "hfx.kernels": "kernels",
    "hfx.scheduler": "scheduler",
    "hfx.scaler": "scaler",
}
LINKS = ("hfx.kernels", "hfx.scheduler", "hfx.scaler")


def packages() -> list[str]:
    """Every importable package in the mapped folders, by import name."""
    names = set(FOLDERS)
    for name, folder in FOLDERS.items():
        children = find_packages(folder)
        names.update(f"{name}.{child}" for child in children)
    return sorted(names)


class LinkedEditable(editable_wheel):
    """Link the sibling folders under hfx/ so editors and type checkers resolve them."""

    def run(self) -> None:
        for name in LINKS:
            link = ROOT / name.replace(".", "/")
            if not link.is_symlink():
                link.symlink_to(Path("..") / FOLDERS[name], target_is_directory=True)
        self.distribution.package_dir = {"": "."}
        super().run()


class CMakeBuild(build_ext):
    """Compile extensions with CMake instead of distutils."""

    def build_extension(self, ext: Extension) -> None:
        import nanobind

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(self.build_temp).resolve() / ext.name
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake",
            "-S",
            str(ROOT),
            "-B",
            str(build),
            "-G",
            "Ninja",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dnanobind_DIR={nanobind.cmake_dir()}",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
        ]
        subprocess.run(configure, check=True)
        jobs = str(os.cpu_count() or 1)
        subprocess.run(["cmake", "--build", str(build), "-j", jobs], check=True)


setup(
    packages=packages(),
    package_dir=FOLDERS,
    ext_modules=[Extension("hfx.kernels._cpu", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "editable_wheel": LinkedEditable},
    package_data={
        "hfx": ["py.typed"],
        "hfx.cost.presets": ["*.json"],
        "hfx.kernels": ["*.pyi"],
        "hfx.simulate": ["*.jinja"],
        "hfx.kernels.gpu": ["*.json"],
        "hfx.kernels.npu": ["*.json"],
    },
)
