"""Figures in one style: rows of images, visible holes, maps of numbers, and curves.

The functions return a `matplotlib.figure.Figure` and show nothing. A notebook displays a figure that it is given, and a
script calls `figure.savefig(path)`. pyplot is not used, so no figure stays open and no other code's style changes.
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
Row = Sequence[Picture] | Tensor
# Okabe and Ito, "Color universal design" (2008). Colour-blind readers can tell them apart, and the dashes help.
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
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "image.interpolation": "nearest",
}


@contextmanager
def style() -> Iterator[None]:
    """Use the library's matplotlib style for the figures made inside `with style():`, then restore the previous one."""
    import matplotlib
    from cycler import cycler

    with matplotlib.rc_context({**_STYLE, "axes.prop_cycle": cycler(color=COLOURS)}):
        yield


def show_images(
    rows: Sequence[Row], titles: Sequence[str] = (), row_titles: Sequence[str] = (), height: float = 1.5
) -> "Figure":
    """Draw a grid of pictures.

    Parameters
    ----------
    rows : sequence of rows
        A row is a batch `(B, C, H, W)` or a sequence of pictures. Pictures are tensors `(C, H, W)` in [0, 1] with 1 or
        3 channels, or uint8 arrays `(H, W, 3)` or `(H, W)`. Rows may differ in length.
    titles, row_titles : sequence of str
        Text above the columns, and above the pictures of further rows if there is more, and to the left of the rows.
    height : float
        Height of a row in inches.

    Raises
    ------
    ValueError
        If there is no picture, or a picture has another type.
    """
    from matplotlib.figure import Figure

    arrays = [[_to_array(picture) for picture in row] for row in rows]
    columns = max(map(len, arrays))
    aspect = max(a.shape[1] / a.shape[0] for row in arrays for a in row)
    with style():
        above = 0.3 + 0.2 * max((title.count("\n") for title in titles), default=0)
        size = (columns * height * aspect * 1.04 + 0.9 * bool(row_titles), len(arrays) * height * 1.04 + above)
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(arrays), columns, squeeze=False)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[], frame_on=False)
        for line, row in zip(axes, arrays, strict=True):
            for axis, array in zip(line, row, strict=False):
                axis.imshow(array, cmap="gray", vmin=0, vmax=255)
        for axis, title in zip(axes.flat, titles, strict=False):
            axis.set_title(title)
        for axis, title in zip(axes[:, 0], row_titles, strict=False):
            axis.set_ylabel(title, rotation=0, ha="right", va="center")
    return figure


def _to_array(picture: Picture) -> np.ndarray:
    """Turn a picture into an array `(H, W, 3)` or `(H, W)` of uint8."""
    if isinstance(picture, Tensor) and picture.is_floating_point() and picture.ndim == 3 and len(picture) in (1, 3):
        return (picture.detach().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).squeeze(2).numpy()
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8:
        return picture
    about = " ".join(str(getattr(picture, name, "")) for name in ("dtype", "shape"))
    raise ValueError(f"a picture is a {type(picture).__name__} {about}; use a float tensor (C, H, W) or a uint8 array")


def mask_overlay(images: Tensor, hole: Tensor) -> Tensor:
    """Hatch the hidden pixels of images, so that a hole is not mistaken for a grey wall.

    Parameters
    ----------
    images : Tensor
        `(B, C, H, W)` in [0, 1] with 1 or 3 channels.
    hole : Tensor
        `(B, H, W)` bool, True = hidden. It becomes grey with darker diagonal stripes.
    """
    height, width = hole.shape[1:]
    stripe = max(1, round(min(height, width) / 64))  # looks alike at every size
    rows, cols = torch.arange(height)[:, None], torch.arange(width)
    shade = 1 - 0.22 * (((rows + cols) // stripe) % 4 == 0).float()  # (H, W)
    paint = torch.tensor(HOLE_GREY)[: images.shape[1], None, None] * shade  # (C, H, W)
    return torch.where(hole[:, None], paint.to(images), images)


def show_maps(maps: Mapping[str, Picture], label: str) -> "Figure":
    """Draw named maps `(rows, cols)` of numbers side by side, under one colour scale with the name `label`."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(1.9 * len(maps) + 0.9, 2.3), layout="constrained")
        axes = figure.subplots(1, len(maps), squeeze=False)[0]
        low, high = min(float(m.min()) for m in maps.values()), max(float(m.max()) for m in maps.values())
        for axis, (name, values) in zip(axes, maps.items(), strict=True):
            shown = axis.imshow(values, vmin=low, vmax=high)
            axis.set_title(name)
            axis.axis("off")
        figure.colorbar(shown, ax=axes, label=label)
    return figure


def show_curves(history: Mapping[str, Sequence[float]], xlabel: str, ylabel: str, x: Sequence[float] = ()) -> "Figure":
    """Draw named curves into one plot with a legend.

    Parameters
    ----------
    history : mapping of str to sequence of float
        The curves by name. NaN leaves a gap.
    xlabel, ylabel : str
        What the axes show, with units.
    x : sequence of float, optional
        Positions of the values, by default 1, 2, 3, ...
    """
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(5.5, 3.2), layout="constrained")
        axis = figure.subplots()
        for (name, values), dash in zip(history.items(), cycle(DASHES), strict=False):
            axis.plot(x or range(1, len(values) + 1), values, dash, marker="o" if len(values) == 1 else "", label=name)
        axis.set(xlabel=xlabel, ylabel=ylabel)
        axis.legend()
    return figure
