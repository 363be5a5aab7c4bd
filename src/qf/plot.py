"""The layer sweep as a picture: PNG through matplotlib, bars of characters for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qf.errors import QFError
from qf.method.layers import LayerScore

_BLOCKS = " ▏▎▍▌▋▊▉█"


def bar(share: float, width: int) -> str:
    """A share from 0 to 1 as a bar of `width` characters, exact to an eighth of one.

    >>> bar(0.5, 4)
    '██  '
    """
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_BLOCKS[rest] if rest else "")).ljust(width)


def layers_png(scores: Sequence[LayerScore], best: int, path: Path, title: str) -> None:
    """Write the sweep as a PNG: shares of right answers by layer, the best one marked.

    Raises QFError when the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    x = [s.layer for s in scores]
    for name, style in (("same", "o-"), ("other", "s--"), ("kept", "^:")):
        label = {"same": "same words", "other": "other words", "kept": "known before, kept"}[name]
        axes.plot(x, [100 * getattr(s, name) for s in scores], style, label=label, clip_on=False)
    axes.axvline(best, color="0.75", linewidth=8, zorder=0, label=f"best: layer {best}")
    axes.set(xlabel="layer taught", ylabel="right answers, %", ylim=(0, 105), title=title)
    axes.set_xticks(x if len(x) <= 16 else x[:: len(x) // 12])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    try:
        figure.savefig(path, format=path.suffix[1:] or "png")
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or error
        raise QFError(f"The plot {path} cannot be written ({why}): choose another --plot.") from (
            error
        )
