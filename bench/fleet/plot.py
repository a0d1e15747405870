"""The curves of `python -m bench.fleet growth` as a picture."""

import importlib.util
from pathlib import Path

SUFFIXES = (".svg", ".png")
Curves = dict[str, list[tuple[float, float]]]
"""Per series: what varies, and the cores that it took."""


def check_plot(path: Path | None) -> None:
    """Check --plot before anything is measured.

    Raises:
        ValueError: Another kind of file, no such directory, or nothing here that draws.
    """
    if path is None:
        return
    if path.suffix not in SUFFIXES:
        raise ValueError(f"--plot: {path} does not end in {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise ValueError(f"--plot: {path.parent} is no directory")
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--plot: matplotlib is not installed; it is one of the dev dependencies")


def draw(path: Path, curves: Curves) -> None:
    """Draw the curves side by side, all over the same scale of cores."""
    # Only who asks for a picture needs matplotlib.
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams["svg.hashsalt"] = "tokenfleet"
    figure = Figure(figsize=(3.6 * len(curves), 3.2), layout="constrained")
    axes = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axis, (name, points) in zip(axes, curves.items(), strict=True):
        values = sorted(points)
        axis.plot([at for at, _ in values], [cores for _, cores in values], marker="o")
        axis.set_xlabel(_LABELS[name])
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    # Shared: only now is it known how high the highest goes.
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel("coordinator, cores")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


_LABELS = {
    "workers": "workers, same tokens/s and steps/s",
    "in flight": "requests of a worker, same frames/s",
    "frame rate": "frames/s, same tokens/s",
}
