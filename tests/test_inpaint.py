import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maelib.facades import draw_facade, draw_images
from maelib.masking import mask_to_pixels
from maelib.model import MAEConfig, MaskedAutoencoder
from maelib.repair import photo as inpaint
from maelib.repair.classical import BASELINES
from maelib.repair.photo import blend_seam, harmonic_fill, repair, repair_photo
from maelib.weights.checkpoint import bundled_checkpoint, load_model

TINY = MAEConfig(img_size=32, patch_size=4, embed_dim=16, depth=1, num_heads=1, decoder_embed_dim=16, decoder_depth=1,
                 decoder_num_heads=1)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> MaskedAutoencoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MaskedAutoencoder(TINY).eval()


class Painter(torch.nn.Module):
    """Stands in for a model that predicts one colour everywhere, and remembers what it was shown."""

    def __init__(self, colour: tuple[float, float, float]) -> None:
        super().__init__()
        self.colour = torch.nn.Parameter(torch.tensor(colour)[:, None, None])
        self.config, self.shown = TINY, []

    def reconstruct(self, images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        grid = (images.shape[2] // 4, images.shape[3] // 4)
        hidden = mask_to_pixels(mask, 4, grid)[:, None]
        assert not mask.all(dim=1).any(), "a model cannot repair what shows nothing"
        self.shown.append(images[~hidden.expand_as(images)])
        return torch.where(hidden, self.colour, images)


def box_hole(height: int, width: int, left: int = 0, top: int = 0, right: int = 0, bottom: int = 0) -> np.ndarray:
    hole = np.zeros((height, width), bool)
    hole[top:bottom, left:right] = True
    return hole


# ---------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("method", ["model", "mean_fill", "mirror"])
def test_only_the_hole_of_a_batch_changes(method, model):
    images = torch.from_numpy(draw_images(range(3), 32)).permute(0, 3, 1, 2) / 255
    hole = torch.zeros(3, 32, 32, dtype=torch.bool)
    for i, side in enumerate((1, 7, 16)):
        hole[i, 3 : 3 + side, 5 : 5 + side] = True
    with torch.no_grad():
        repaired = repair(images, hole, model if method == "model" else method)
    outside = ~hole[:, None].expand_as(images)
    assert torch.equal(repaired[outside], images[outside])
    assert (repaired[~outside] != images[~outside]).float().mean() > 0.9


def test_a_batch_is_refused_with_the_methods_and_shapes_there_are(model):
    images, hole = torch.zeros(2, 3, 32, 32), torch.zeros(2, 32, 32, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"method 'magic' is not known; use a model or one of mean_fill, "):
        repair(images, hole, "magic")
    with pytest.raises(ValueError, match=r"hole is torch.bool of shape \(32, 32\).*use bool of shape \(2, 32, 32\)"):
        repair(images, hole[0], model)
    with pytest.raises(ValueError, match=r"hole is torch.float32"):
        repair(images, hole.float(), model)


# ---------------------------------------------------------------------------------------------- seams


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.02, 0.98), st.integers(0, 999))
def test_a_membrane_continues_a_constant_and_stays_between_its_ends(height, width, share, seed):
    rng = np.random.default_rng(seed)
    known = torch.from_numpy(rng.random((height, width)) < share)
    known.view(-1)[rng.integers(height * width)] = True
    assert torch.allclose(
        harmonic_fill(torch.full((1, 2, height, width), 0.3), known[None]), torch.tensor(0.3), atol=1e-6
    )
    values = torch.from_numpy(rng.random((1, height, width)).astype(np.float32))
    surface = harmonic_fill(values[None], known[None])[0]
    assert torch.equal(surface[:, known], values[:, known])
    assert values[:, known].min() - 1e-5 <= surface.min() <= surface.max() <= values[:, known].max() + 1e-5


def test_a_membrane_solves_the_laplace_equation():
    """A plane is harmonic, so a membrane hung on its frame is the plane itself."""
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(56.0), indexing="ij")
    plane = (0.01 * x - 0.02 * y)[None]
    known = torch.ones(40, 56, dtype=torch.bool)
    known[5:33, 9:50] = False
    spanned = harmonic_fill(torch.where(known, plane, 7.0)[None], known[None], sweeps=400)
    assert (spanned - plane).abs().max() < 0.01  # of a range of 1.3: sweeps are iterations, not a direct solution


@settings(max_examples=30, deadline=None)
@given(st.floats(-0.3, 0.3), st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.integers(1, 20))
def test_a_constant_error_leaves_no_seam(offset, top, left, height, width):
    photo = torch.from_numpy(draw_images([3], 32))[0].permute(2, 0, 1) / 255 * 0.4 + 0.3
    hole = torch.zeros(32, 32, dtype=torch.bool)
    hole[top : top + height, left : left + width] = True
    hole[0, 0] = False
    assert torch.allclose(blend_seam(photo[None], photo[None] + offset, hole[None]), photo, atol=1e-5)


def test_a_repair_of_another_colour_meets_the_photo_at_the_seam():
    photo = np.full((64, 64, 3), 150, np.uint8)
    repaired = repair_photo(photo, box_hole(64, 64, 20, 20, 45, 45), Painter((0.2, 0.2, 0.2)))
    assert np.abs(repaired.astype(int) - 150).max() <= 1


# ---------------------------------------------------------------------------------------------- photos


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_only_the_hole_changes_whatever_the_size_and_nothing_leaks_from_it(model, data):
    height, width = data.draw(st.integers(4, 150)), data.draw(st.integers(4, 150))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    photo = rng.integers(0, 256, (height, width, 3), np.uint8)
    hole = rng.random((height, width)) < data.draw(st.sampled_from([0.001, 0.3, 0.98]))
    if data.draw(st.booleans()):
        left, top = rng.integers(width), rng.integers(height)
        hole = box_hole(height, width, left, top, left + rng.integers(1, width), top + rng.integers(1, height))
    hole[0, 0], hole[-1, -1] = False, True
    repaired = repair_photo(photo, hole, model)
    assert repaired.shape == photo.shape
    assert repaired.dtype == np.uint8
    assert np.array_equal(repaired[~hole], photo[~hole])
    other = np.where(hole[..., None], 255 - photo, photo)
    assert np.array_equal(repair_photo(other, hole, model), repaired)


@pytest.mark.parametrize("shape", [(4, 4), (5, 150), (4, 1000), (33, 31), (300, 40)])
def test_thin_and_tiny_photos_are_repaired(model, shape):
    photo = draw_images([1], 64)[0]
    photo = np.asarray(Image.fromarray(photo).resize(shape[::-1]))
    hole = box_hole(*shape, 1, 1, shape[1] // 2, shape[0] // 2)
    repaired = repair_photo(photo, hole, model)
    assert np.array_equal(repaired[~hole], photo[~hole])


def test_a_large_hole_takes_what_the_model_predicts():
    """Far from the visible pixels, where no seam reaches, the colour is the model's up to the mean at the seam."""
    photo = np.full((200, 260, 3), 100, np.uint8)
    painter = Painter((0.9, 0.1, 0.5))
    hole = box_hole(200, 260, 30, 20, 230, 180)
    repair_photo(photo, hole, painter)
    assert all((shown - 100 / 255).abs().max() < 1e-5 for shown in painter.shown[:4])  # the first pass sees photo only


def test_wires_before_every_patch_leave_their_neighbours_to_go_by(model):
    """A net that touches every patch at the model's scale is thin at the photo's own."""
    photo = draw_images([2], 128)[0]
    hole = np.zeros((128, 128), bool)
    hole[::8], hole[:, ::8] = True, True
    repaired = repair_photo(photo, hole, model)
    error = np.abs(repaired.astype(float) - photo)[hole].mean()
    blank = np.abs(photo[~hole].mean(axis=0) - photo)[hole].mean()
    assert error < blank


def test_scattered_holes_leave_the_model_the_patches_between_them():
    painter = Painter((0.5, 0.5, 0.5))
    hole = np.kron(np.random.default_rng(0).permutation(64).reshape(8, 8) < 48, np.ones((4, 4), bool))
    repair_photo(np.full((32, 32, 3), 9, np.uint8), hole, painter)
    assert sum(len(shown) for shown in painter.shown) > 0


@pytest.fixture(scope="module")
def bundled() -> MaskedAutoencoder:
    if not bundled_checkpoint().is_file():
        pytest.skip("the bundled model is not made yet")
    return load_model(bundled_checkpoint())


def test_large_photos_gain_from_finer_passes_and_show_no_grid(bundled, monkeypatch):
    """A drawn facade of 1024 px behind a net of wires and a box: the truth is known."""
    hole = box_hole(1024, 1024, 300, 420, 560, 700)
    for start in range(30, 1024, 180):
        hole[start : start + 12], hole[:, start : start + 12] = True, True
    photo = draw_facade(900_000_003, 1024).image
    fine = repair_photo(photo, hole, bundled)
    sizes = inpaint._sizes
    monkeypatch.setattr(inpaint, "_sizes", lambda *args: sizes(*args)[:1])
    coarse = repair_photo(photo, hole, bundled)
    error = [((repaired.astype(float) - photo)[hole] ** 2).mean() for repaired in (fine, coarse)]
    assert error[0] < 0.8 * error[1]
    steps = np.abs(np.diff(fine[420:700, 300:560].astype(float), axis=1)).mean(axis=(0, 2))
    period = bundled.config.patch_size
    phases = [steps[phase::period].mean() for phase in range(period)]
    assert max(phases) < 2 * np.median(phases)  # windows alone make it about 1.3


def test_a_grey_photo_gets_a_grey_repair(model):
    photo = np.repeat(draw_images([4], 48)[0][..., :1], 3, axis=2)
    repaired = repair_photo(photo, box_hole(48, 48, 10, 10, 30, 30), model)
    assert (repaired == repaired[..., :1]).all()


def test_a_model_is_not_asked_twice_to_different_ends(model):
    photo, hole = draw_images([5], (90, 130))[0], box_hole(90, 130, 20, 20, 70, 60)
    assert np.array_equal(repair_photo(photo, hole, model), repair_photo(photo, hole, model))


@pytest.mark.parametrize("name", ["mean_fill", "translation_copy"])
def test_classical_methods_repair_photos_too(name):
    photo, hole = draw_images([6], (60, 45))[0], box_hole(60, 45, 5, 5, 20, 20)
    repaired = repair_photo(photo, hole, name)
    assert np.array_equal(repaired[~hole], photo[~hole])
    images = torch.from_numpy(photo)[None].permute(0, 3, 1, 2) / 255
    filled = BASELINES[name](images, torch.from_numpy(hole)[None])[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(filled - repaired).max() <= 0.5 + 1e-4


@pytest.mark.parametrize(
    ("photo", "hole", "message"),
    [
        (np.zeros((32, 32, 3)), box_hole(32, 32, 1, 1, 2, 2), r"float64 of shape \(32, 32, 3\), expected uint8"),
        (np.zeros((32, 32), np.uint8), box_hole(32, 32, 1, 1, 2, 2), r"expected uint8 \(H, W, 3\)"),
        (np.zeros((3, 9, 3), np.uint8), box_hole(3, 9, 1, 1, 2, 2),
         r"photo is 9 x 3 px \(width x height\), smaller than a patch of the model; use one of at least 4 px a side"),
        (np.zeros((32, 32, 3), np.uint8), box_hole(32, 31, 1, 1, 2, 2), r"mask is 31 x 32 px.*photo 32 x 32 px"),
        (np.zeros((32, 32, 3), np.uint8), np.ones((32, 32)), r"of float64.*make a bool mask"),
        (np.zeros((32, 32, 3), np.uint8), box_hole(32, 32), "nothing is hidden"),
        (np.zeros((32, 32, 3), np.uint8), ~box_hole(32, 32), "everything is hidden"),
    ],
)  # fmt: skip
def test_photos_and_holes_that_do_not_fit_are_refused(model, photo, hole, message):
    with pytest.raises(ValueError, match=message):
        repair_photo(photo, hole, model)
