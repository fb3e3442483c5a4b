"""Interactive pieces for notebooks: paint the patches to hide and see them repaired; turn a knob and see it matter."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets
import torch
import traitlets
from PIL import Image
from torch import Tensor

from maelib.masking import mask_to_pixels
from maelib.metrics import hole_psnr
from maelib.model import MaskedAutoencoder
from maelib.patches import grid_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def to_png(images: Tensor) -> bytes:
    """PNG file of the first of `images` `(B, 3, H, W)`, floats in [0, 1]."""
    pixels = (images[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0)  # (B, 3, H, W) -> (H, W, 3)
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, format="png")
    return file.getvalue()


class PatchPainter(anywidget.AnyWidget):
    """A picture under its grid of patches; click or drag to hide patches and to show them again.

    Parameters
    ----------
    images : Tensor
        `(1, 3, H, W)` floats in [0, 1].
    patch_size : int
        Side of a patch in pixels.
    mask : Tensor, optional
        `(1, N)` bool, True = hidden: where to start. None hides nothing.
    """

    _esm = Path(__file__).with_name("painter.js")
    image = traitlets.Bytes().tag(sync=True)
    rows = traitlets.Int().tag(sync=True)
    cols = traitlets.Int().tag(sync=True)
    mask = traitlets.List(traitlets.Bool()).tag(sync=True)

    def __init__(self, images: Tensor, patch_size: int, mask: Tensor | None = None) -> None:
        rows, cols = grid_size(tuple(images.shape[2:]), patch_size)
        hidden = [False] * (rows * cols) if mask is None else mask.flatten().tolist()
        if len(hidden) != rows * cols:
            raise ValueError(f"mask has {len(hidden)} entries for {rows} x {cols} patches; use {rows * cols}")
        super().__init__(image=to_png(images), rows=rows, cols=cols, mask=hidden)

    def __repr__(self) -> str:
        return f"PatchPainter({self.rows} x {self.cols} patches, {sum(self.mask)} hidden)"

    def on_change(self, callback: Callable[[Tensor], None]) -> None:
        """Call `callback` with the mask, `(1, N)` bool, whenever it changes."""
        self.observe(lambda change: callback(torch.tensor([change["new"]])), "mask")


class RepairPainter(ipywidgets.HBox):
    """A `PatchPainter` with the model's repair beside it, made anew at every change of the mask.

    Parameters
    ----------
    images : Tensor
        `(1, 3, H, W)` floats in [0, 1], sides multiples of the model's patch size.
    model : MaskedAutoencoder
        Repairs the hidden patches.
    mask : Tensor, optional
        `(1, N)` bool, True = hidden: where to start. None hides nothing.
    """

    def __init__(self, images: Tensor, model: MaskedAutoencoder, mask: Tensor | None = None) -> None:
        self.images, self.model = images, model
        self.painter = PatchPainter(images, model.config.patch_size, mask)
        self.repaired = ipywidgets.Image(format="png", width=336)
        self.repaired.layout.object_fit = "contain"
        self.caption = ipywidgets.Label()
        self.painter.on_change(self._repair)
        self._repair(torch.tensor([self.painter.mask]))
        super().__init__([self.painter, ipywidgets.VBox([self.repaired, self.caption])])

    def __repr__(self) -> str:
        return f"RepairPainter({self.painter.rows} x {self.painter.cols} patches): {self.caption.value}"

    def _repair(self, mask: Tensor) -> None:
        grid = self.painter.rows, self.painter.cols
        hidden = int(mask.sum())
        if hidden == mask.numel():
            self.caption.value = "Every patch is hidden: show at least one, the model needs something to see."
            return
        if not hidden:
            self.repaired.value, self.caption.value = to_png(self.images), "Nothing hidden: paint over a few patches."
            return
        repaired = self.model.reconstruct(self.images, mask)
        hole = mask_to_pixels(mask, self.model.config.patch_size, grid)
        psnr = float(hole_psnr(repaired, self.images, hole))
        self.repaired.value = to_png(repaired)
        self.caption.value = f"{hidden} of {mask.numel()} patches hidden, PSNR in the hole {psnr:.1f} dB"


class Explorer(ipywidgets.VBox):
    """Controls above a picture, which is drawn anew whenever one of them moves.

    Parameters
    ----------
    draw : callable
        Takes one value for each control, by its name, and returns the `Figure` to show. What it raises stands under the
        controls, and the picture stays.
    **controls
        Widgets, or what `ipywidgets.interact` makes widgets of: `share=(0.1, 0.9, 0.05)` a slider, `kind=["block",
        "random"]` a choice, `grid=True` a box to tick.
    """

    def __init__(self, draw: "Callable[..., Figure]", /, **controls: Any) -> None:
        self.draw = draw
        self.controls = {name: ipywidgets.interactive.widget_from_abbrev(value) for name, value in controls.items()}
        for name, control in self.controls.items():
            control.description = control.description or name.replace("_", " ")
            control.style.description_width = "initial"
            if hasattr(control, "continuous_update"):
                control.continuous_update = False  # one picture for a drag, not one for each pixel of it
            control.observe(self._show, "value")
        self.picture, self.problem = ipywidgets.Image(format="png"), ipywidgets.Label()
        super().__init__([*self.controls.values(), self.problem, self.picture])
        self._show()

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={control.value!r}" for name, control in self.controls.items())
        return f"Explorer({values})"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return {**super()._repr_mimebundle_(**kwargs), "text/plain": repr(self)}  # ipywidgets cuts it at 110 letters

    def _show(self, change: object = None) -> None:
        try:
            figure = self.draw(**{name: control.value for name, control in self.controls.items()})
        except ValueError as error:
            self.problem.value = str(error)
            return
        file = io.BytesIO()
        figure.savefig(file, format="png")
        self.picture.value, self.problem.value = file.getvalue(), ""
