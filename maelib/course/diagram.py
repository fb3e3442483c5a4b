"""The masked autoencoder in one drawing: each step from an image to its repair, with the shape that it hands on."""

from typing import TYPE_CHECKING

from maelib.model import MAEConfig
from maelib.plots import COLOURS, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SKY, WALL, WINDOW, DOOR, MASK = "#A9C7DE", "#C58A5A", "#47586A", "#7A4A2E", "#9E9E9E"
PATCHES = [SKY] * 4 + [WALL, WINDOW, WALL, WINDOW] * 2 + [WALL, DOOR, WALL, WALL]
HIDDEN = {1, 2, 5, 6, 9, 10, 13, 14}  # of the 16 patches in the drawing; the shapes are those of the model


def architecture(config: MAEConfig, hidden: int) -> "Figure":
    """Draw what a `MaskedAutoencoder` computes, in the order of its `forward`.

    Parameters
    ----------
    config : MAEConfig
        The shape of the model.
    hidden : int
        Number of hidden patches in each image.
    """
    from matplotlib.figure import Figure

    rows, cols = config.grid_size
    count, values, extra = rows * cols, 3 * config.patch_size**2, int(config.class_token)
    kept, size, image = count - hidden, config.patch_size, (3, config.img_size, config.img_size)
    width, narrow = config.embed_dim, config.decoder_embed_dim
    visible = [colour for i, colour in enumerate(PATCHES) if i not in HIDDEN]
    restored = [MASK if i in HIDDEN else colour for i, colour in enumerate(PATCHES)]
    class_token = "and the class token" if extra else ""
    steps = [
        ("image", "a batch of B", image, _grid, PATCHES),
        ("cut", f"{rows} x {cols} patches of\n{size} x {size} pixels", (count, values), _apart, PATCHES),
        ("embed", "a linear layer,\nthen add positions", (count, width), _tokens, PATCHES),
        ("hide", f"keep visible tokens\n{class_token}", (kept + extra, width), _tokens, visible),
        ("encode", "visible tokens attend\nto each other", (kept + extra, width), _blocks, config.depth),
        ("embed again", "a linear layer to the\ndecoder's width", (kept + extra, narrow), _tokens, visible),
        ("restore", "insert mask tokens,\nadd positions", (count + extra, narrow), _tokens, restored),
        ("decode", "all tokens attend\nto each other", (count + extra, narrow), _blocks, config.decoder_depth),
        ("predict", "a linear layer makes\nthe pixels of a patch", (count, values), _apart, PATCHES),
        ("join", "patches to an image", image, _grid, PATCHES),
    ]
    with style():
        figure = Figure(figsize=(8.18, 5), layout="constrained")  # 900 pixels wide
        for axis, (name, does, shape, draw, what) in zip(figure.subplots(2, 5).flat, steps, strict=True):
            axis.set(xlim=(-0.8, 4.8), ylim=(4.3, -0.3), aspect="equal")
            axis.axis("off")
            axis.set_title(name, fontsize=10, fontweight="bold")
            draw(axis, what)
            text = f"({', '.join(map(str, ('B', *shape)))})"
            axis.text(2, 4.4, text, ha="center", va="top", family="monospace")
            axis.text(2, 5.1, does, ha="center", va="top", linespacing=1.3)
            if name not in ("encode", "join"):  # the last of a line
                axis.annotate("", (5.6, 2), (4.6, 2), annotation_clip=False, arrowprops={"arrowstyle": "-|>"})
    return figure


def _box(axis: "Axes", x: float, y: float, width: float, height: float, colour: str, edge: str = "none") -> None:
    from matplotlib.patches import Rectangle

    axis.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor=edge))


def _grid(axis: "Axes", colours: list[str], side: float = 1) -> None:
    for i, colour in enumerate(colours):
        _box(axis, i % 4, i // 4, side, side, colour)


def _apart(axis: "Axes", colours: list[str]) -> None:
    _grid(axis, colours, side=0.78)


def _tokens(axis: "Axes", colours: list[str]) -> None:
    for i, colour in enumerate(colours):
        _box(axis, 0, 2 + (i - len(colours) / 2) / 4, 4, 0.18, colour)


def _blocks(axis: "Axes", depth: int) -> None:
    for i in range(3):
        _box(axis, 0.3 * i, 0.5 + 0.3 * i, 3.4, 2.4, "white", COLOURS[0])
    axis.text(2.3, 2.3, f"{depth} blocks", ha="center", va="center")
