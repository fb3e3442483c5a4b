"""The evaluation is fixed to the bit, measures the hole alone and reports the margin over the best baseline."""

import matplotlib.image
import numpy as np
import pytest
import torch
from unwedged import draw_unwedged

from maelib.data.images import TEST_SEEDS
from maelib.facades import draw_facade
from maelib.metrics import hole_psnr, hole_ssim
from maelib.model import MAEConfig, MaskedAutoencoder
from maelib.repair.classical import BASELINES
from maelib.repair.evaluate import (
    HOLES,
    EvaluateConfig,
    Score,
    best_baseline,
    drawn_test_images,
    evaluate,
    evaluation_figure,
    evaluation_holes,
    evaluation_table,
    image_border_fill,
    model_method,
    run,
)
from maelib.weights.checkpoint import save_model

FAST = {name: BASELINES[name] for name in ("mean_fill", "nearest_patch", "translation_copy")}


@pytest.fixture(scope="module")
def images():
    return drawn_test_images(32, count=6)


def small_model():
    config = MAEConfig(img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, decoder_embed_dim=16,
                       decoder_depth=1, decoder_num_heads=2)  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MaskedAutoencoder(config).eval()


def test_test_images_are_the_reserved_facades(images):
    assert images.shape == (6, 3, 32, 32)
    expected = torch.from_numpy(draw_facade(TEST_SEEDS[3], 32).image).permute(2, 0, 1) / 255
    assert torch.equal(images[3], expected)
    assert len(TEST_SEEDS) == 256


@pytest.mark.parametrize(("kind", "share"), [("block 25%", 0.25), ("block 50%", 0.5), ("random 75%", 0.75)])
def test_holes_have_the_share_they_are_named_after_and_never_change(kind, share, images):
    torch.manual_seed(1)
    hole = evaluation_holes(kind, images, 8)
    torch.manual_seed(2)
    assert torch.equal(evaluation_holes(kind, images, 8), hole)
    assert hole.shape == (6, 32, 32)
    assert (hole.float().mean(dim=(1, 2)) == share).all()
    assert len(hole.unique(dim=0)) > 1


def test_holes_fall_on_the_patch_grid_of_images_that_are_not_square():
    hole = evaluation_holes("random 75%", torch.zeros(4, 3, 16, 48), 8)
    tiles = hole.reshape(4, 2, 8, 6, 8)
    assert torch.equal(tiles.any(dim=(2, 4)), tiles.all(dim=(2, 4)))


def wedged(images, fill=0.0):
    """The same images with a flat triangle over three eighths of them, at the upper left."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    return images.masked_fill(x * 3 + y * 4 < 192, fill)


def test_holes_leave_wedges_out_and_are_else_what_they_are():
    images = torch.from_numpy(draw_unwedged(6, 64)).permute(0, 3, 1, 2) / 255
    mixed = torch.cat([images[:3], wedged(images[3:])])
    void = torch.nn.functional.max_pool2d(image_border_fill(mixed).float(), 8).bool()
    void = void.repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert list(void.any(dim=(1, 2))) == [False] * 3 + [True] * 3
    for kind in HOLES:
        plain, hole = evaluation_holes(kind, images, 8), evaluation_holes(kind, mixed, 8)
        assert torch.equal(hole[:3], plain[:3])
        assert not (hole & void).any()
        assert hole.any(dim=(1, 2)).all()
        rows = (plain & ~void).any(dim=(1, 2))
        assert torch.equal(hole[rows], (plain & ~void)[rows])


@pytest.mark.parametrize("fill", [0.0, 128 / 255])
def test_no_method_is_judged_on_a_wedge(fill):
    """A method that paints wedges over anything, anywhere in them, scores the same."""
    images = wedged(drawn_test_images(64, count=4), fill)
    wedge = image_border_fill(images)[:, None]
    methods = {"grey": lambda images, hole: torch.full_like(images, 0.5)}
    methods["vandal"] = lambda images, hole: torch.where(wedge, 1.0, 0.5).expand_as(images)
    grey, vandal = ([score[2:] for score in evaluate({n: methods[n]}, images, 8)] for n in methods)
    assert np.array_equal(grey, vandal, equal_nan=True)


def test_an_image_that_is_nearly_all_wedge_is_refused():
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    images = drawn_test_images(64, count=2)
    images[1] = images[1].masked_fill((x - 32).abs() + (y - 32).abs() > 30, 0.0)
    with pytest.raises(ValueError, match="wedges touch every patch of 32 px of image 1; crop them or leave it out"):
        evaluation_holes("block 50%", images, 32)


def test_scores_are_means_over_images_of_the_metrics_in_the_hole(images):
    scores = {(s.method, s.hole): s for s in evaluate(FAST, images, 8)}
    assert set(scores) == {(name, kind) for name in FAST for kind in HOLES}
    hole = evaluation_holes("block 50%", images, 8)
    repaired = FAST["mean_fill"](images, hole)
    score = scores["mean_fill", "block 50%"]
    assert score.psnr == pytest.approx(hole_psnr(repaired, images, hole).mean().item(), abs=1e-4)
    assert score.ssim == pytest.approx(hole_ssim(repaired, images, hole).mean().item(), abs=1e-5)
    assert score.sharpness == 0


def test_evaluation_repeats_to_the_bit_and_draws_nothing_from_the_global_generator(images):
    methods = {**FAST, "model": model_method(small_model())}
    state = torch.random.get_rng_state()
    first = evaluate(methods, images, 8)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert evaluate(methods, images, 8) == first


def test_copying_the_visible_pixels_into_the_prediction_gains_nothing(images):
    def everywhere(images, hole):
        return torch.full_like(images, 0.5)

    def composited(images, hole):
        return torch.where(hole[:, None], torch.tensor(0.5), images)

    scores = evaluate({"a": everywhere, "b": composited}, images, 8)
    values = {name: [score[2:] for score in scores if score.method == name] for name in "ab"}
    assert values["a"] == values["b"]


def test_a_method_sees_the_whole_batch_in_parts_and_every_image_counts(images, monkeypatch):
    expected = evaluate(FAST, images, 8)
    monkeypatch.setattr("maelib.repair.evaluate.BATCH_SIZE", 4)
    for got, want in zip(evaluate(FAST, images, 8), expected, strict=True):
        assert got[2:] == pytest.approx(want[2:], abs=1e-5)


def test_a_model_repairs_every_patch_the_hole_touches_and_changes_only_the_hole(images):
    model, hole = small_model(), torch.zeros(6, 32, 32, dtype=torch.bool)
    hole[:, 5:12, 9:18] = True
    repaired = model_method(model)(images, hole)
    assert torch.equal(repaired.permute(0, 2, 3, 1)[~hole], images.permute(0, 2, 3, 1)[~hole])
    mask = torch.zeros(6, 4, 4, dtype=torch.bool)
    mask[:, 0:2, 1:3] = True
    expected = model.reconstruct(images, mask.flatten(1)).permute(0, 2, 3, 1)[hole]
    assert torch.equal(repaired.permute(0, 2, 3, 1)[hole], expected)
    assert not repaired.requires_grad


def test_mistakes_are_named(images):
    with pytest.raises(ValueError, match="img_size 32 is not a multiple of patch_size 7"):
        evaluate(FAST, images, 7)
    with pytest.raises(ValueError, match=r"target range from .* far outside"):
        evaluate({"none": lambda images, hole: images / 255}, images * 255, 8)
    with pytest.raises(ValueError, match="prediction has shape"):
        evaluate({"cropped": lambda images, hole: images[..., 1:]}, images, 8)
    with pytest.raises(ValueError, match="no baseline was scored on 'block 25%'"):
        best_baseline([Score("mine", "block 25%", 1, 1, 1)], "block 25%")


HAND_MADE = [
    Score(name, kind, psnr + shift, ssim, 0.5)
    for kind, shift in zip(HOLES, (0, 1, 2), strict=True)
    for name, psnr, ssim in (("telea", 14, 0.4), ("mirror", 15, 0.3), ("mine", 17.5, 0.35))
]


def test_best_baseline_is_the_best_by_the_metric_asked_for_and_never_a_model():
    assert best_baseline(HAND_MADE, "block 50%").method == "mirror"
    assert best_baseline(HAND_MADE, "block 50%", "ssim").method == "telea"


def test_table_states_each_models_margin_over_the_best_baseline():
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in evaluation_table(HAND_MADE).splitlines()]
    assert lines[0][1:] == list(HOLES)
    assert lines[2] == ["telea", "14.00 / 0.400 / 0.50", "15.00 / 0.400 / 0.50", "16.00 / 0.400 / 0.50"]
    assert lines[-1] == ["mine above the best", *["+2.50 dB (mirror) / -0.050 (telea)"] * 3]
    assert len({len(line) for line in evaluation_table(HAND_MADE).splitlines()}) == 1


def test_table_without_baselines_or_without_models_has_no_margins():
    for keep in ({"mine"}, {"telea", "mirror"}):
        table = evaluation_table([score for score in HAND_MADE if score.method in keep])
        assert "above" not in table
        assert len(table.splitlines()) == 2 + len(keep)


def test_figure_shows_the_two_best_baselines_and_every_model(images):
    methods = {**FAST, "mine": lambda images, hole: images}
    scores = evaluate(methods, images, 8)
    titles = [axis.get_title() for axis in evaluation_figure(methods, scores, images[:1], 8).axes[:5]]
    total = {name: sum(s.psnr for s in scores if s.method == name) for name in FAST}
    worst = min(total, key=total.get)
    assert titles[:2] == ["truth", "hole"]
    assert set(titles[2:4]) == FAST.keys() - {worst}
    assert titles[4] == "mine"


@pytest.fixture
def checkpoint(tmp_path):
    save_model(tmp_path / "model.safetensors", small_model(), {})
    return tmp_path / "model.safetensors"


def test_the_command_evaluates_a_folder_of_photos(tmp_path, checkpoint, images, monkeypatch):
    monkeypatch.setattr("maelib.repair.evaluate.BASELINES", FAST)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(images[:3]):
        np.save(folder / f"{i}.npy", (image.permute(1, 2, 0) * 255).byte().numpy())
    (folder / "broken.png").write_bytes(b"no picture")
    out = tmp_path / "new" / "figure.png"
    text = run(EvaluateConfig(checkpoint=checkpoint, photos=folder, skip_bad=True, out=out))
    assert "3 images, 0 of them with flat wedges, which no hole touches" in text
    assert "left out: " in text
    assert "broken.png" in text
    assert "model above the best" in text
    assert matplotlib.image.imread(out).shape[2] in (3, 4)


def test_the_command_evaluates_drawn_facades_by_default(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr("maelib.repair.evaluate.BASELINES", {"mean_fill": BASELINES["mean_fill"]})
    assert "256 images" in run(EvaluateConfig(checkpoint=checkpoint, out=tmp_path / "figure.png"))


def test_one_flat_picture_does_not_make_the_table_infinite():
    flat = torch.full((1, 3, 32, 32), 0.5)
    scores = evaluate(FAST, torch.cat([flat, drawn_test_images(32, count=2)]), 8)
    assert all(np.isfinite([score.psnr, score.ssim]).all() for score in scores)
    assert "inf" not in evaluation_table(scores)
