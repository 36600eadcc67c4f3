"""How figures look: themes for light and dark pages, and a look for each policy in all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
MARKERS = "osD^vPX*"
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a page: ink and grid, one for each policy, one for each state, words on bars."""

    name: str
    ink: str
    faint: str
    grid: str
    policies: tuple[str, ...]
    states: Mapping[str, str]
    on_bars: str


LIGHT = Theme(
    "light",
    "#1f2430",
    "#6b7280",
    "#d9dde3",
    ("#2563eb", "#d9480f", "#2b8a3e", "#862e9c", "#b08900", "#0b7285", "#c2255c", "#495057"),
    {
        "ready": "#93b8f5",
        "prefill": "#f2b48f",
        "decode": "#9bd3a8",
        "starting": "#f3d98b",
        "draining": "#c9ccd3",
    },
    "#ffffff",
)
DARK = Theme(
    "dark",
    "#e6e8ee",
    "#9aa3b2",
    "#353b47",
    ("#6ea8fe", "#ff9a5c", "#69db7c", "#da9bef", "#f5d04c", "#4fd1e0", "#ff8ab5", "#b5bcc8"),
    {
        "ready": "#2f4f86",
        "prefill": "#8a4b26",
        "decode": "#2f6b40",
        "starting": "#7d6a1e",
        "draining": "#4a505c",
    },
    "#14171d",
)


@dataclass(frozen=True, slots=True)
class Look:
    """How a policy is drawn everywhere."""

    number: int

    def colour(self, theme: Theme) -> str:
        """Of its lines and bars, on that theme's background."""
        return theme.policies[self.number % len(theme.policies)]

    @property
    def marker(self) -> str:
        """Of its points, by matplotlib's name."""
        return MARKERS[self.number % len(MARKERS)]

    @property
    def dash(self) -> Any:
        """Of its lines, as matplotlib's `linestyle`."""
        return DASHES[self.number % len(DASHES)]


Palette = Mapping[str, Look]


def palette(policies: Sequence[str]) -> Palette:
    """A look for each policy, in their order."""
    return {name: Look(n) for n, name in enumerate(dict.fromkeys(policies))}


def require_matplotlib(option: str) -> None:
    """Find out before anything is simulated.

    Raises:
        ValueError: it is not installed; the message says what to install.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{option} needs matplotlib ({error}): pip install 'hfx[plot]'") from error


def check_plot(path: Path) -> None:
    """That a picture can be drawn there.

    Raises:
        ValueError: another ending, or no matplotlib.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"--plot {path}: the name must end with {' or '.join(SUFFIXES)}")
    require_matplotlib("--plot")


def save(paths: Sequence[Path], build: Callable[[Theme], Figure], theme: Theme) -> None:
    """Draw a figure into files, PNG or SVG by their names; the same figure gives the same bytes."""
    with _style(theme):
        figure = build(theme)
        for path in paths:
            metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
            figure.savefig(path, dpi=160, metadata=metadata, transparent=theme is DARK)


@contextmanager
def _style(theme: Theme) -> Iterator[None]:
    import matplotlib

    plain: dict[Any, Any] = {
        "font.size": 11,
        "font.family": "DejaVu Sans",
        "axes.titlesize": 11.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.linewidth": 0.7,
        "lines.linewidth": 2.0,
        "lines.markersize": 5.5,
        "legend.frameon": False,
        "svg.hashsalt": "hfx",
        "figure.facecolor": "white" if theme is LIGHT else "none",
        "axes.facecolor": "none",
    }
    inks = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.titlecolor")
    colours = dict.fromkeys(inks, theme.ink) | {
        "axes.edgecolor": theme.faint,
        "grid.color": theme.grid,
    }
    with matplotlib.rc_context(plain | colours):
        yield
