"""Figures in one style: rows of images, holes made visible, curves.

Functions return a `matplotlib.figure.Figure` and show nothing: a notebook displays what it is handed, a script calls
`figure.savefig(path)`. They never touch pyplot, so no figure stays open and no other code's style changes.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture = Tensor | np.ndarray
# Okabe and Ito, "Color universal design" (2008): told apart by the colour-blind; dashes say the same once more.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", "--", "-.", ":")
HOLE_GREY = (0.62, 0.62, 0.62)
_STYLE = {
    "figure.facecolor": "white",  # opaque, so that labels are readable on a dark page too
    "figure.dpi": 110,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "text.color": "black",
    "axes.labelcolor": "black",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "image.cmap": "viridis",
    "image.interpolation": "nearest",
}


@contextmanager
def style() -> Iterator[None]:
    """The library's matplotlib style, for the figures made inside `with style():`; restores the previous one."""
    import matplotlib
    from cycler import cycler

    with matplotlib.rc_context({**_STYLE, "axes.prop_cycle": cycler(color=COLOURS)}):
        yield


def show_images(
    rows: Sequence[Sequence[Picture] | Tensor],
    titles: Sequence[str] = (),
    row_titles: Sequence[str] = (),
    height: float = 1.5,
) -> "Figure":
    """Draw a grid of pictures.

    Parameters
    ----------
    rows : sequence of rows
        A row is a batch `(B, C, H, W)` or a sequence of pictures: tensors `(C, H, W)` in [0, 1], C = 1 or 3, or
        uint8 arrays `(H, W, 3)` or `(H, W)`. Rows may differ in length.
    titles, row_titles : sequence of str
        Written above the columns and to the left of the rows.
    height : float
        Of a row, in inches.

    Raises
    ------
    ValueError
        When there is no picture, or one has another shape or type.
    """
    from matplotlib.figure import Figure

    arrays = [[_to_array(picture) for picture in row] for row in rows]
    columns = max((len(row) for row in arrays), default=0)
    if not columns:
        raise ValueError("rows hold no picture; pass at least one row with one picture")
    aspect = max(a.shape[1] / a.shape[0] for row in arrays for a in row)
    with style():
        lines = max((title.count("\n") for title in titles), default=0)
        above = 0.3 + 0.2 * lines
        size = (columns * height * aspect * 1.04 + 0.9 * bool(row_titles), len(arrays) * height * 1.04 + above)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(arrays), columns, squeeze=False)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            axis.grid(False)
        for line, row in zip(axes, arrays, strict=True):
            for axis, array in zip(line, row, strict=False):
                axis.imshow(array, cmap="gray", vmin=0, vmax=255)
        for axis, title in zip(axes[0], titles, strict=False):
            axis.set_title(title)
        for axis, title in zip(axes[:, 0], row_titles, strict=False):
            axis.set_ylabel(title, rotation=0, ha="right", va="center")
    return figure


def _to_array(picture: Picture) -> np.ndarray:
    """A picture as uint8 (H, W, 3) or (H, W)."""
    if isinstance(picture, Tensor) and picture.ndim == 3 and picture.is_floating_point() and len(picture) in (1, 3):
        array = (picture.detach().cpu().clamp(0, 1) * 255).round().byte()
        return array.permute(1, 2, 0).numpy() if len(picture) == 3 else array[0].numpy()
    is_bytes = isinstance(picture, np.ndarray) and picture.dtype == np.uint8
    if is_bytes and (picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] == 3)):
        return picture
    raise ValueError(
        f"a picture is a {type(picture).__name__} of {getattr(picture, 'dtype', None)}, "
        f"shape {tuple(getattr(picture, 'shape', ()))}; "
        "pass float tensors (C, H, W) in [0, 1] with 1 or 3 channels, or uint8 arrays (H, W, 3) or (H, W)"
    )


def mask_overlay(images: Tensor, hole: Tensor, colour: tuple[float, float, float] = HOLE_GREY) -> Tensor:
    """Images whose hidden pixels are hatched in `colour`, so that a hole is not mistaken for a grey wall.

    Parameters
    ----------
    images : (B, C, H, W) in [0, 1], C = 1 or 3.
    hole : (B, H, W) bool, True = hidden.
    colour : red, green, blue in [0, 1]; every other diagonal stripe is drawn darker.
    """
    height, width = hole.shape[1:]
    stripe = max(1, round(min(height, width) / 64))  # the same look at every size
    rows, cols = torch.arange(height)[:, None], torch.arange(width)
    shade = 1 - 0.22 * (((rows + cols) // stripe) % 4 == 0).float()  # (H, W)
    paint = torch.tensor(colour)[: images.shape[1], None, None] * shade  # (C, H, W)
    return torch.where(hole[:, None], paint.to(images), images)


def show_curves(
    history: Mapping[str, Sequence[float]], xlabel: str, ylabel: str, x: Sequence[float] | None = None
) -> "Figure":
    """Draw named curves into one plot, with a legend.

    Parameters
    ----------
    history : one sequence of numbers for each name; NaN leaves a gap.
    xlabel, ylabel : what the axes show, with units.
    x : positions of the numbers; 1, 2, 3, ... by default.

    Raises
    ------
    ValueError
        When `x` and a curve differ in length.
    """
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(5.5, 3.2), layout="constrained")
        axis = figure.subplots()
        for (name, values), dash in zip(history.items(), cycle(DASHES), strict=False):
            at = range(1, len(values) + 1) if x is None else x
            if len(at) != len(values):
                raise ValueError(f"curve {name!r} has {len(values)} values but x has {len(at)}; give one x each")
            marker = "o" if len(values) == 1 else ""
            axis.plot(at, values, dash, marker=marker, label=name)
        axis.set(xlabel=xlabel, ylabel=ylabel)
        if history:
            axis.legend()
    return figure
