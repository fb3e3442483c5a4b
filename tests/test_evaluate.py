"""The evaluation is fixed to the bit, measures the hole alone and reports the margin over the best baseline."""

import matplotlib.image
import numpy as np
import pytest
import torch
from tiny import TINY, draw_plain, fill_folder

from maelib.data.images import TEST_SEEDS
from maelib.facades import LABELS, draw_facade
from maelib.metrics import hole_psnr, hole_ssim
from maelib.repair import evaluate as evaluation
from maelib.repair.classical import BASELINES
from maelib.repair.evaluate import HOLES, EvaluateConfig, Score, drawn_test_images, drawn_tests, evaluate, run
from maelib.transfer.compare import random_weights
from maelib.weights.checkpoint import save_model

FAST = {name: BASELINES[name] for name in ("mean_fill", "nearest_patch", "translation_copy")}


@pytest.fixture(scope="module")
def images():
    return drawn_test_images(32, count=6)


def test_drawn_tests_are_the_reserved_facades_and_know_where_they_show_one():
    images, valid = drawn_tests(32, count=6)
    for seed, image, shown in zip(TEST_SEEDS, images, valid, strict=False):
        facade = draw_facade(seed, 32)
        assert torch.equal(image, torch.from_numpy(facade.image).permute(2, 0, 1) / 255)
        assert np.array_equal(shown, facade.labels != LABELS.index("void"))
    assert 0 < (~valid).sum() < valid.numel()


@pytest.mark.parametrize(("kind", "share"), [("block 25%", 0.25), ("block 50%", 0.5), ("random 75%", 0.75)])
def test_holes_have_the_share_they_are_named_after_and_never_change(kind, share):
    images = torch.zeros(6, 3, 32, 48)
    everywhere = torch.ones(6, 32, 48, dtype=torch.bool)
    hole = evaluation.evaluation_holes(kind, images, 8, everywhere)
    torch.manual_seed(2)
    assert torch.equal(evaluation.evaluation_holes(kind, images, 8, everywhere), hole)
    assert (hole.float().mean(dim=(1, 2)) == share).all()
    assert len(hole.unique(dim=0)) > 1
    tiles = hole.reshape(6, 4, 8, 6, 8)
    assert torch.equal(tiles.any(dim=(2, 4)), tiles.all(dim=(2, 4)))  # on the grid of patches


@pytest.mark.parametrize("given", [False, True])
def test_holes_leave_border_fill_out_and_are_else_what_they_are(given):
    images = torch.from_numpy(draw_plain(6, 64)).permute(0, 3, 1, 2) / 255
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    mixed = images.clone()
    mixed[3:, :, x * 3 + y * 4 < 192] = 0.0  # a flat triangle over three eighths, at the upper left
    fill = evaluation.image_border_fill(mixed)
    assert list(fill.any(dim=(1, 2))) == [False] * 3 + [True] * 3
    touched = torch.nn.functional.max_pool2d(fill.float(), 8).bool().repeat_interleave(8, 1).repeat_interleave(8, 2)
    photos, valid = (images, ~fill) if given else (mixed, None)
    for kind in HOLES:
        plain = evaluation.evaluation_holes(kind, images, 8)
        hole = evaluation.evaluation_holes(kind, photos, 8, valid)
        assert torch.equal(hole[:3], plain[:3])
        assert not (hole & touched).any()
        assert hole.any(dim=(1, 2)).all()
        rows = (plain & ~touched).any(dim=(1, 2))
        assert torch.equal(hole[rows], (plain & ~touched)[rows])


def test_scores_are_means_over_images_of_the_metrics_in_the_hole(images, monkeypatch):
    monkeypatch.setattr(evaluation, "BATCH_SIZE", 4)  # a method sees the images in parts, and every image counts
    state = torch.random.get_rng_state()
    scores = {(s.method, s.hole): s for s in evaluate(FAST, images, 8)}
    assert torch.equal(torch.random.get_rng_state(), state)  # nothing is drawn from the global generator
    assert set(scores) == {(name, kind) for name in FAST for kind in HOLES}
    hole = evaluation.evaluation_holes("block 50%", images, 8)
    repaired = FAST["mean_fill"](images, hole)
    score = scores["mean_fill", "block 50%"]
    assert score.psnr == pytest.approx(hole_psnr(repaired, images, hole).mean().item(), abs=1e-4)
    assert score.ssim == pytest.approx(hole_ssim(repaired, images, hole).mean().item(), abs=1e-5)
    assert score.sharpness == 0


def test_one_flat_picture_does_not_make_the_table_infinite(images):
    scores = evaluate(FAST, torch.cat([torch.full((1, 3, 32, 32), 0.5), images[:2]]), 8)
    assert all(np.isfinite([score.psnr, score.ssim]).all() for score in scores)


HAND_MADE = [
    Score(name, kind, psnr + shift, ssim, 0.5)
    for kind, shift in zip(HOLES, (0, 1, 2), strict=True)
    for name, psnr, ssim in (("telea", 14, 0.4), ("mirror", 15, 0.3), ("mine", 17.5, 0.35))
]


def test_table_states_each_models_margin_over_the_best_baseline():
    assert evaluation.best_baseline(HAND_MADE, "block 50%").method == "mirror"
    assert evaluation.best_baseline(HAND_MADE, "block 50%", "ssim").method == "telea"
    table = evaluation.evaluation_table(HAND_MADE).splitlines()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert lines[0][1:] == list(HOLES)
    assert lines[2] == ["telea", "14.00 / 0.400 / 0.50", "15.00 / 0.400 / 0.50", "16.00 / 0.400 / 0.50"]
    assert lines[-1] == ["mine above the best", *["+2.50 dB (mirror) / -0.050 (telea)"] * 3]
    assert len(evaluation.evaluation_table([score for score in HAND_MADE if score.method != "mine"]).splitlines()) == 4


def test_figure_shows_the_two_best_baselines_and_every_model(images):
    methods = {**FAST, "mine": lambda images, hole: images}
    scores = evaluate(methods, images, 8)
    titles = [axis.get_title() for axis in evaluation.evaluation_figure(methods, scores, images[:1], 8).axes[:5]]
    total = {name: sum(s.psnr for s in scores if s.method == name) for name in FAST}
    assert titles[:2] == ["truth", "hole"]
    assert set(titles[2:4]) == FAST.keys() - {min(total, key=total.get)}
    assert titles[4] == "mine"


def test_the_command_evaluates_a_folder_of_photos_and_else_drawn_facades(tmp_path, monkeypatch):
    checkpoint = tmp_path / "model.safetensors"
    save_model(checkpoint, random_weights(TINY, 0), {})
    monkeypatch.setattr(evaluation, "BASELINES", FAST)
    folder, out = fill_folder(tmp_path / "photos", 3), tmp_path / "new" / "figure.png"
    (folder / "broken.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match=r"left out: .*broken\.png"):
        text = run(EvaluateConfig(checkpoint=checkpoint, photos=folder, skip_bad=True, out=out))
    assert "3 images, 0 of them with border fill, which no hole touches" in text
    assert "model above the best" in text
    assert matplotlib.image.imread(out).shape[2] in (3, 4)
    monkeypatch.setattr(evaluation, "drawn_tests", lambda size: drawn_tests(size, 6))  # of 256
    assert "6 images" in run(EvaluateConfig(checkpoint=checkpoint, out=out))


def test_a_figure_that_cannot_be_written_is_refused_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "load_model", lambda *args: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match=r"--out .*x\.xyz: .* cannot be written; use one of .*\.png"):
        run(EvaluateConfig(out=tmp_path / "x.xyz"))
