"""`python -m hfx.cost.presets --data DIR`: fit the presets again and write them."""

import argparse
from pathlib import Path

from ..profile import save
from .make import MAKERS


def main() -> None:
    """Write every preset, or the named ones, and print how good they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with profiles/*.csv.gz")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where to write")
    parser.add_argument("names", nargs="*", default=[], metavar="NAME", help=", ".join(MAKERS))
    options = parser.parse_args()
    for name in options.names or MAKERS:
        model = MAKERS[name](options.data / "profiles")
        save(model, options.out / f"{name}.json")
        print(f"{name}: {model.source}")
        for regime, quality in model.report.items():
            print(
                f"  {regime}: {quality.steps} steps, MAPE {quality.mape:.1%}, "
                f"p90 {quality.p90:.1%}, coverage {quality.coverage:.1%}"
            )


if __name__ == "__main__":
    main()
