"""Plots of a run, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.results import OURS, is_peer

__all__ = ("draw",)

_GROWTH: Final = {
    "window_8k": ("A window of 8,000 tokens", "items in the conversation"),
    "window_100k": ("A window of 100,000 tokens", "items in the conversation"),
    "turn": ("The storage work of a turn", "turn"),
}
_COLOURS: Final = ("#7a5195", "#bc5090", "#ef5675", "#ff764a", "#ffa600", "#8c8c3a", "#4c956c", "#2f6690", "#9a8c98")


def draw(found: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw what a run has found; return the files.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl  # noqa: PLC0415 - it takes a second, and not everyone draws

    mpl.use("Agg")
    drawn = [_growth(found, folder, name) for name in _GROWTH]
    drawn += [_bars(found, folder), _ratios(found, folder)]
    return [path for path in drawn if path is not None]


def _figure(title: str, height: float = 4.5) -> tuple[Any, Any]:
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(figsize=(8, height), layout="constrained")
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _saved(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _colours(systems: Sequence[str]) -> dict[str, str]:
    """Return a colour for each system: ours is black, the floor grey."""
    peers = [name for name in systems if is_peer(name)]
    made = {name: _COLOURS[at % len(_COLOURS)] for at, name in enumerate(peers)}
    return {name: made.get(name, "black" if name.startswith(OURS) else "grey") for name in systems}


def _growth(found: Mapping[str, Any], folder: Path, name: str) -> Path | None:
    """Draw how one measure grows: logarithmic both ways, so that an exponent is a slope."""
    lines: dict[str, list[tuple[int, float, float]]] = {}
    for one in found["results"]:
        measure, at, size = one["measure"].partition("@")
        if measure == name and at:
            lines.setdefault(one["system"], []).append((int(size), one["value"], one["spread"] or 0.0))
    lines = {system: sorted(points) for system, points in lines.items() if len(points) > 1 or is_peer(system)}
    if not any(len(points) > 1 for points in lines.values()):
        return None
    title, below = _GROWTH[name]
    figure, axes = _figure(title)
    colours = _colours(list(lines))
    for system, points in lines.items():
        sizes, values, spreads = zip(*points, strict=True)
        half = [min(spread / 2, 0.9 * value) for spread, value in zip(spreads, values, strict=True)]
        style = ":" if "oldest-turns" in system else "--" if "live" in system else "-"
        width = 2.2 if system.startswith(OURS) else 1.2
        axes.errorbar(
            sizes, values, half, label=system, color=colours[system], linestyle=style, linewidth=width, marker="o", ms=4
        )
    axes.set(xscale="log", yscale="log", xlabel=below, ylabel="ms")
    axes.grid(visible=True, which="major", alpha=0.25)
    axes.legend(fontsize=7, frameon=False, ncols=2)
    return _saved(figure, folder / f"{name}.png")


def _bars(found: Mapping[str, Any], folder: Path) -> Path | None:
    """Draw appends by a hundred conversations."""
    of = [one for one in found["results"] if one["measure"] == "append_100"]
    if not of:
        return None
    of.sort(key=lambda one: one["value"])
    names = [one["system"] for one in of]
    figure, axes = _figure(f"Durable appends, 100 conversations at once, a flush takes {found['flush_ms']:.2f} ms")
    colours = _colours(names)
    axes.barh(names, [one["value"] for one in of], color=[colours[name] for name in names])
    for at, one in enumerate(of):
        axes.text(one["value"], at, f" {one['value']:,.0f}", va="center", fontsize=8)
    axes.set(xscale="log", xlabel="items/s", xlim=(of[0]["value"] / 3, of[-1]["value"] * 3))
    axes.tick_params(axis="y", labelsize=8)
    return _saved(figure, folder / "append_100.png")


def _ratios(found: Mapping[str, Any], folder: Path) -> Path | None:
    """Draw the ratios; a line stands at one."""
    # Exponents are about 0, and drawn as slopes.
    made = {name: value for name, value in found["ratios"].items() if value is not None and "exponent" not in name}
    if not made:
        return None
    figure, axes = _figure("Ratios", 4.0)
    names = list(made)[::-1]
    axes.barh(names, [made[name] for name in names], color="#5b7f95")
    for at, name in enumerate(names):
        axes.text(made[name], at, f" {made[name]:.3g}", va="center", fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xscale="log")
    axes.tick_params(axis="y", labelsize=8)
    return _saved(figure, folder / "ratios.png")
