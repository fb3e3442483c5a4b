"""What a notebook shows: pictures with captions, a grid of patches to paint on, knobs that redraw a figure."""

import base64
import html
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets
import torch
import traitlets
from torch import Tensor

from maelib.masking import mask_to_pixels
from maelib.metrics import hole_psnr
from maelib.model import MaskedAutoencoder
from maelib.patches import grid_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A PNG image and its caption: words under the image, which a screen reader speaks in its place.

    JupyterLab and nbconvert give a plain `image/png` no alt text, so the image is shown as HTML.
    """

    png: bytes
    caption: str

    def __repr__(self) -> str:
        return self.caption

    def _repr_html_(self) -> str:
        words, source = html.escape(self.caption), base64.b64encode(self.png).decode()
        image = f'<img alt="{words}" src="data:image/png;base64,{source}">'
        return f'<figure style="margin: 0">{image}<figcaption aria-hidden="true">{words}</figcaption></figure>'


def figure(drawing: "Figure", caption: str) -> Picture:
    """Turn a figure of `maelib.plots` into a picture with a caption, such as "Figure 3. Six facades and repairs."."""
    file = io.BytesIO()
    drawing.savefig(file, format="png")
    return Picture(file.getvalue(), caption)


def to_png(images: Tensor) -> bytes:
    """Encode the first of `images` `(B, 3, H, W)`, floats in [0, 1], as a PNG file."""
    from torchvision.utils import save_image  # takes a second to import

    file = io.BytesIO()
    save_image(images[0], file, "png")
    return file.getvalue()


class PatchPainter(anywidget.AnyWidget):
    """A picture under its grid of patches; click or drag to hide patches and to show them again.

    Parameters
    ----------
    images : Tensor
        `(1, 3, H, W)` floats in [0, 1].
    patch_size : int
        Side of a patch in pixels.
    mask : Tensor
        `(1, N)` bool, True = hidden at the start.
    """

    _esm = Path(__file__).with_name("painter.js")
    image = traitlets.Bytes().tag(sync=True)
    rows = traitlets.Int().tag(sync=True)
    cols = traitlets.Int().tag(sync=True)
    mask = traitlets.List(traitlets.Bool()).tag(sync=True)

    def __init__(self, images: Tensor, patch_size: int, mask: Tensor) -> None:
        rows, cols = grid_size(tuple(images.shape[2:]), patch_size)
        super().__init__(image=to_png(images), rows=rows, cols=cols, mask=mask.reshape(rows * cols).tolist())


class RepairPainter(ipywidgets.HBox):
    """A `PatchPainter` beside the model's repair, which follows every change of the mask.

    Parameters
    ----------
    images : Tensor
        `(1, 3, H, W)` floats in [0, 1]; the sides are multiples of the model's patch size.
    model : MaskedAutoencoder
        Repairs the hidden patches.
    mask : Tensor
        `(1, N)` bool, True = hidden at the start.
    """

    def __init__(self, images: Tensor, model: MaskedAutoencoder, mask: Tensor) -> None:
        self.images, self.model = images, model
        self.painter = PatchPainter(images, model.config.patch_size, mask)
        self.repaired = ipywidgets.Image(format="png", width=336, layout={"object_fit": "contain"})
        self.caption = ipywidgets.Label()
        self.painter.observe(self._repair, "mask")
        self._repair()
        super().__init__([self.painter, ipywidgets.VBox([self.repaired, self.caption])])

    def __repr__(self) -> str:
        return f"RepairPainter({self.painter.rows} x {self.painter.cols} patches): {self.caption.value}"

    def _repair(self, change: object = None) -> None:
        mask = torch.tensor([self.painter.mask])  # (1, N)
        if mask.all():
            self.caption.value = "Every patch is hidden: show at least one, the model needs something to see."
            return
        repaired = self.model.reconstruct(self.images, mask)
        self.repaired.value = to_png(repaired)
        if not mask.any():
            self.caption.value = "Nothing is hidden: paint over a few patches."
            return
        hole = mask_to_pixels(mask, self.model.config.patch_size, (self.painter.rows, self.painter.cols))
        psnr = hole_psnr(repaired, self.images, hole).item()
        self.caption.value = f"{mask.sum()} of {mask.numel()} patches hidden, PSNR in the hole {psnr:.1f} dB"


class Explorer(ipywidgets.VBox):
    """Controls above a figure that is drawn again whenever one of them moves.

    Parameters
    ----------
    draw : callable
        Takes the value of each control, by the control's name, and returns the `Figure` to show. The text of a
        ValueError appears under the controls, and the last figure stays.
    **controls
        Widgets, or what `ipywidgets.interact` turns into widgets: `share=(0.1, 0.9, 0.05)` gives a slider,
        `kind=["block", "random"]` a choice, `grid=True` a box to tick.
    """

    def __init__(self, draw: "Callable[..., Figure]", /, **controls: Any) -> None:
        self.draw = draw
        self.controls = {name: ipywidgets.interactive.widget_from_abbrev(value) for name, value in controls.items()}
        for name, control in self.controls.items():
            control.description = control.description or name.replace("_", " ")
            control.style.description_width = "initial"
            control.continuous_update = False  # of a slider: one picture for a drag, not one for each pixel of it
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
            drawing = self.draw(**{name: control.value for name, control in self.controls.items()})
            self.picture.value, self.problem.value = figure(drawing, repr(self)).png, ""
        except ValueError as error:
            self.problem.value = str(error)
