"""Detail: what is copied, from where, and how its seams are cut and blended."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion, gaussian_filter

from maelib.facades import draw_facade
from maelib.repair.detail import add_detail
from maelib.repair.photo import repair_photo
from maelib.repair.seams import SEAM_WEIGHT, Scale, add_borders, blend, expand, neighbours
from maelib.weights import bundled_checkpoint, load_model

WINDOW = np.random.default_rng(0).integers(40, 216, (16, 20, 3)).astype(np.uint8)


def wall(height: int = 96, width: int = 120) -> np.ndarray:
    """A facade of equal windows, one each 16 rows and 20 columns."""
    return np.tile(WINDOW, (-(-height // 16), -(-width // 20), 1))[:height, :width]


def box(shape: tuple[int, ...], top: int, bottom: int, left: int, right: int) -> np.ndarray:
    hole = np.zeros(shape[:2], bool)
    hole[top:bottom, left:right] = True
    return hole


def blurred(photo: np.ndarray, sigma: float = 2.0) -> np.ndarray:
    """What a model repairs: the right colours without detail."""
    return gaussian_filter(photo.astype(float), (sigma, sigma, 0)).astype(np.uint8)


@pytest.mark.filterwarnings("ignore:nothing visible can be copied")
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_any_hole_of_any_photo_is_filled_from_what_is_visible_and_nothing_else_changes(height, width, share, seed):
    rng = np.random.default_rng(seed)
    photo, guide = rng.integers(0, 256, (2, height, width, 3)).astype(np.uint8)
    hole, unknown = rng.random((height, width)) <= share, rng.random((height, width)) < 0.1
    filled, confidence = add_detail(photo, hole, guide, unknown)
    spoilt = np.where((hole | unknown)[..., None], 255 - photo, photo)
    assert np.array_equal(filled[~hole], photo[~hole])
    assert np.array_equal(filled[hole], add_detail(spoilt, hole, guide, unknown)[0][hole])
    assert 0 <= confidence.min() <= confidence.max() <= 1
    assert not confidence[~hole].any()


@pytest.mark.parametrize("factor", [1, 4], ids=["one scale", "three scales"])
def test_a_repeating_facade_is_restored(factor):
    photo = wall().repeat(factor, axis=0).repeat(factor, axis=1)
    hole = box(photo.shape, *(factor * np.array((30, 62, 37, 83))))
    filled, confidence = add_detail(photo, hole, blurred(photo, 2 * factor))
    assert np.abs(filled.astype(int) - photo)[hole].mean() < 2
    assert confidence[hole].mean() > 0.5


def test_a_mirrored_copy_serves_where_no_other_does():
    left = np.random.default_rng(1).integers(0, 256, (96, 60, 3)).astype(np.uint8)
    photo = np.hstack([left, left[:, ::-1]])
    hole = box(photo.shape, 30, 60, 75, 105)
    filled, _ = add_detail(photo, hole, blurred(photo))
    assert np.abs(filled.astype(int) - photo)[hole].mean() < 4


def test_the_surroundings_decide_where_the_repair_says_nothing(monkeypatch):
    monkeypatch.setattr("maelib.repair.seams.PULL", 0)  # the grey of the repair is not to show in the copy
    photo = np.full((160, 240, 3), 180, np.uint8)  # a wall whose right part is blank
    for top, left in product(range(20, 150, 40), range(10, 150, 40)):
        photo[top : top + 16, left : left + 20] = WINDOW
    hole = box(photo.shape, 52, 88, 82, 120)  # around a window
    # The blank wall differs by 14.
    assert np.abs(add_detail(photo, hole, np.full_like(photo, 160))[0] - photo.astype(int))[hole].mean() < 1


def test_where_nothing_resembles_the_repair_the_confidence_is_low():
    photo, hole = wall(), box((96, 120), 30, 62, 20, 100)
    guide = blurred(photo)
    guide[:, 60:] = (0, 255, 0)  # nothing visible is green
    confidence = add_detail(photo, hole, np.where(hole[..., None], guide, photo))[1]
    assert confidence[hole & (np.arange(120) > 65)].max() < confidence[hole & (np.arange(120) < 50)].mean() / 2


def test_without_anything_to_copy_the_repair_stays():
    photo, guide = wall(32, 40), np.full((32, 40, 3), 9, np.uint8)
    hole = ~box(photo.shape, 0, 2, 0, 40)
    with pytest.warns(UserWarning, match="nothing visible can be copied"):
        filled, confidence = add_detail(photo, hole, guide)
    assert (filled[hole] == 9).all()
    assert not confidence.any()


def test_threads_change_nothing():
    code = (
        "import hashlib; from maelib.facades import draw_facade; from test_detail import add_detail, blurred, box\n"
        "photo = draw_facade(3, 96).image; hole = box(photo.shape, 20, 60, 30, 75)\n"
        "print(hashlib.sha256(add_detail(photo, hole, blurred(photo, 4))[0]).hexdigest())"
    )
    command, results = [sys.executable, "-c", code], set()
    for threads in "12":
        env = os.environ | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        results.add(subprocess.check_output(command, cwd=Path(__file__).parent, env=env))
    assert len(results) == 1


def test_the_share_of_detail_goes_from_the_model_to_the_copy():
    photo, model = draw_facade(5, 96).image, load_model(bundled_checkpoint())
    hole = box(photo.shape, 30, 60, 30, 66)
    none, half, full = (repair_photo(photo, hole, model, detail=share) for share in (0, 0.5, 1))
    assert np.abs((none[hole].astype(float) + full[hole]) / 2 - half[hole]).max() <= 0.5
    assert np.array_equal(full[hole], add_detail(photo, hole, none)[0][hole])


def test_a_cut_between_two_copies_is_the_best_there_is():
    rng = np.random.default_rng(2)
    where = np.ones((3, 3), bool)
    pairs = neighbours(where)
    for _ in range(20):
        costs, looks = rng.random((2, 9)).astype(np.float32), 0.1 * rng.random((2, 9, 9)).astype(np.float32)

        def energy(labels, costs=costs, looks=looks):
            seams = sum(np.abs(looks[a, i] - looks[b, i]).sum() for p, q in zip(*pairs, strict=True)
                        for a, b in [(labels[p], labels[q])] for i in (p, q))  # fmt: skip
            return costs[labels, np.arange(9)].sum() + SEAM_WEIGHT * seams

        best = min(energy(np.array(labels)) for labels in product((0, 1), repeat=9))
        assert energy(expand(costs, looks, pairs, np.zeros(9, int))) == pytest.approx(best, abs=0.01)


def test_a_copy_that_differs_from_what_is_visible_costs_more_along_the_rim():
    photo, hole = wall(48, 60) / np.float32(255), box((48, 60), 16, 32, 20, 36)
    costs = np.zeros((2, hole.sum()), np.float32)
    offsets = np.array([(0, 0, 20), (0, 0, 7)])  # a window aside, and not
    add_borders(Scale(photo, ~hole, ~hole, hole, photo), costs, offsets, hole, np.zeros(hole.shape, int))
    rim = (hole & ~binary_erosion(hole))[hole]
    assert np.array_equal(costs > 0, [np.zeros_like(rim), rim])


WALL = np.random.default_rng(3).random((24, 24, 3)).astype(np.float32) * 0.2 + 0.2
SKY, ROOF = np.full_like(WALL, 0.9), np.zeros_like(WALL)


@pytest.mark.parametrize(("left", "right", "expected"), [(WALL, WALL + 0.3, WALL + 0.3), (SKY, ROOF, SKY)])
def test_a_blend_brings_a_copy_to_the_level_of_the_rim_but_smears_none_that_does_not_belong(left, right, expected):
    photo, guide = np.hstack([left, right]), np.hstack([left, expected])
    hole = box(photo.shape, 6, 18, 28, 40)
    scale = Scale(photo * ~hole[..., None], ~hole, ~hole, hole, guide)
    filled = blend(scale, np.array([(0, 0, -24)]), np.zeros(hole.shape, int))
    assert np.abs(filled - guide[hole]).max() < 2e-3
