"""Figures are opaque, leak nothing, and show the pictures they were given."""

import io

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from maelib.plots import COLOURS, HOLE_GREY, mask_overlay, show_curves, show_images, show_maps, style


def test_figures_leave_no_style_and_no_open_figure_behind_even_after_an_error():
    import matplotlib.pyplot as plt

    before, open_figures = dict(matplotlib.rcParams), plt.get_fignums()
    show_images([torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))])
    show_curves({"train": [2, 1]}, "step", "loss")
    with style():
        assert dict(matplotlib.rcParams) != before
    with pytest.raises(ZeroDivisionError), style():
        1 / 0  # noqa: B018
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == open_figures


def test_show_images_shows_the_colours_it_was_given_opaque_on_a_dark_page_too():
    red, blue = torch.tensor([1.0, 0, 0])[:, None, None].expand(3, 8, 8), np.zeros((8, 8, 3), dtype=np.uint8)
    blue[..., 2] = 255
    with matplotlib.rc_context({"figure.facecolor": "none", "savefig.transparent": False}):
        file = io.BytesIO()
        show_images([[red, blue], [torch.full((1, 8, 8), 0.5)]]).savefig(file, format="png")
    image = np.asarray(Image.open(file).convert("RGBA"))
    assert (image[..., 3] == 255).all()
    colours, counts = np.unique(image.reshape(-1, 4), axis=0, return_counts=True)
    large = {tuple(colour[:3]) for colour, count in zip(colours.tolist(), counts, strict=True) if count > 5000}
    assert {(255, 0, 0), (0, 0, 255), (128, 128, 128), (255, 255, 255)} <= large


@pytest.mark.parametrize("title", ["one line", "three\nlines\nhere"])
def test_titles_label_pictures_and_rows_and_lie_inside_the_figure(title):
    figure = show_images([torch.zeros(2, 3, 8, 8)] * 2, [title, "hole", "below"], ["a", "b"], height=1.5)
    assert [axis.get_title() for axis in figure.axes[:3]] == [title, "hole", "below"]
    assert [axis.get_ylabel() for axis in figure.axes[::2]] == ["a", "b"]
    figure.draw_without_rendering()
    assert figure.axes[0].title.get_window_extent().y1 <= figure.bbox.y1
    assert figure.axes[0].get_window_extent().height > 0.9 * 1.5 * figure.dpi  # not at the cost of the picture


@pytest.mark.parametrize(("channels", "size"), [(1, (16, 24)), (3, (224, 160))])
def test_mask_overlay_hatches_the_hole_alone(channels, size):
    images = torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(1))
    hole = torch.zeros(2, *size, dtype=torch.bool)
    hole[0, 4:12, 4:20] = True
    shown = mask_overlay(images, hole)
    assert torch.equal(shown[1], images[1])
    assert torch.equal(shown[0][:, ~hole[0]], images[0][:, ~hole[0]])
    hatched = shown[0][:, hole[0]].unique(dim=1)  # two shades: the colour and its stripe
    assert hatched.shape == (channels, 2)
    torch.testing.assert_close(hatched[:, 1], torch.tensor(HOLE_GREY)[:channels])


def test_show_curves_draws_each_series_in_its_own_colour_and_dash():
    history = {f"run {i}": [i, i + 1, i + 2] for i in range(4)}
    axis = show_curves(history, xlabel="step", ylabel="loss", x=[10, 20, 30]).axes[0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("step", "loss")
    assert all(line.get_xydata().tolist() == [[10, i], [20, i + 1], [30, i + 2]] for i, line in enumerate(axis.lines))
    assert [line.get_color() for line in axis.lines] == list(COLOURS[:4])
    assert len({line.get_linestyle() for line in axis.lines}) == 4
    assert [text.get_text() for text in axis.get_legend().get_texts()] == list(history)
    assert list(show_curves({"a": [3, 2]}, "epoch", "loss").axes[0].lines[0].get_xdata()) == [1, 2]


def test_show_maps_gives_all_maps_one_colour_scale():
    *maps, key = show_maps({"a": torch.tensor([[1.0, 2.0]]), "b": np.array([[4.0, 3.0]])}, "share").axes
    assert [axis.get_title() for axis in maps] == ["a", "b"]
    assert [axis.images[0].get_clim() for axis in maps] == [(1, 4), (1, 4)]
    assert key.get_ylabel() == "share"
