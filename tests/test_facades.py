"""Drawn facades: what a seed promises, what the labels promise, and what the occluders promise."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maelib.facades import LABELS, STYLES, Facade, draw_facade, draw_images

CMP_LABELS = Path(__file__).parents[2] / "shared" / "data" / "cmp_facades" / "labels" / "train"
CMP_CLASSES = {"wall": [2], "window": [3], "door": [4], "trim": [5, 6, 9, 10, 11], "balcony": [7], "shutter": [8],
               "shop": [12], "elsewhere": [1]}  # fmt: skip
SIDES = st.integers(32, 128) | st.sampled_from([32, 224])


@pytest.fixture(scope="module")
def facades() -> list[Facade]:
    return [draw_facade(seed, 64, occluders=True) for seed in range(200)]


@pytest.fixture(scope="module")
def shares(facades: list[Facade]) -> dict[str, np.ndarray]:
    """Share of each class, `(200,)` by name."""
    counts = np.stack([np.bincount(facade.labels.ravel(), minlength=len(LABELS)) for facade in facades]) / 64**2
    return dict(zip(LABELS, counts.T, strict=True))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**64), height=SIDES, width=SIDES)
def test_same_seed_draws_the_same_bits_at_any_size(seed: int, height: int, width: int):
    one = draw_facade(seed, (height, width), occluders=True)
    draw_facade(seed + 1, 32)  # nothing is carried over from a drawing in between
    np.testing.assert_equal(vars(one), vars(draw_facade(seed, (height, width), occluders=True)))
    assert one.image.shape == one.occluded.shape == (height, width, 3)
    assert one.labels.shape == one.occluder.shape == (height, width)
    assert one.image.dtype == one.occluded.dtype == one.labels.dtype == np.uint8
    assert one.occluder.dtype == bool
    assert one.labels.max() < len(LABELS)
    assert one.style in STYLES


@pytest.mark.parametrize("size", [(32, 1024), (1024, 32), 1024])
def test_largest_and_longest_sizes_are_drawn(size: int | tuple[int, int]):
    facade = draw_facade(3, size, occluders=True)
    assert facade.image.shape[:2] == (size if isinstance(size, tuple) else (size, size))
    assert facade.occluder.mean() >= 0.02
    assert len(np.unique(facade.labels)) >= 4


def test_a_seed_is_one_scene_at_every_size():
    # the grain is finer in a larger picture, so the two agree in what is drawn, not in every pixel
    for seed in range(20):
        small, large = (draw_facade(seed, size).image.astype(float) for size in (64, 192))
        pooled = large.reshape(64, 3, 64, 3, 3).mean((1, 3))
        assert np.corrcoef(small.ravel(), pooled.ravel())[0, 1] > 0.85, seed


def test_draw_images_are_the_pictures_of_draw_facade():
    images = draw_images([7, 3, 7], (40, 56))
    assert images.shape == (3, 40, 56, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(images[1], draw_facade(3, (40, 56)).image)
    assert np.array_equal(images[0], images[2])
    assert draw_images([], 32).shape == (0, 32, 32, 3)


def test_asking_for_occluders_does_not_change_the_truth(facades: list[Facade]):
    for seed in range(20):
        without = replace(facades[seed], occluded=None, occluder=None)
        np.testing.assert_equal(vars(draw_facade(seed, 64)), vars(without))


def test_occluders_change_pixels_under_their_mask_only(facades: list[Facade]):
    for facade in facades:
        changed = (facade.image != facade.occluded).any(-1)
        assert not (changed & ~facade.occluder).any()
        assert changed.sum() > 0.8 * facade.occluder.sum()  # the mask is no larger than it needs to be
        assert 0.02 <= facade.occluder.mean() <= 0.5


def test_classes_occur_in_realistic_shares(shares: dict[str, np.ndarray]):
    mean = {name: share.mean() for name, share in shares.items()}
    assert max(mean, key=mean.get) == "wall"
    assert 0.25 < mean["wall"] < 0.5
    assert 0.1 < mean["window"] < 0.25
    assert 0.05 < mean["sky"] < 0.2
    assert all(share > 0.003 for share in mean.values()), mean
    built = shares["wall"] + shares["window"] + shares["trim"] + shares["balcony"] + shares["shop"]
    assert np.quantile(built, 0.05) > 0.35  # a facade, not a street with a house in it
    assert np.quantile(shares["window"], 0.05) > 0.04
    assert np.quantile(shares["window"], 0.95) < 0.35


def test_classes_occur_as_in_the_cmp_label_maps(shares: dict[str, np.ndarray]):
    if not CMP_LABELS.is_dir():
        pytest.skip("the CMP label maps are not here; they are in shared/data beside the repository")
    maps = np.stack([np.asarray(Image.open(path)) for path in sorted(CMP_LABELS.glob("*.png"))])
    ours = {name: share.mean() for name, share in shares.items() if name in CMP_CLASSES}
    ours["elsewhere"] = 1 - sum(ours.values())
    for name, codes in CMP_CLASSES.items():
        theirs = np.isin(maps, codes).mean()
        assert theirs / 2 < ours[name] < theirs * 2, (name, ours[name], theirs)


def test_some_drawings_show_the_flat_wedges_that_rectification_leaves(facades: list[Facade]):
    wedged = 0
    for facade in facades:
        void = facade.labels == LABELS.index("void")
        wedged += void.mean() > 0.05
        if void.mean() > 0.1:
            values, counts = np.unique(facade.image[void], return_counts=True)
            assert values[counts.argmax()] in (0, 128)
            assert counts.max() > 0.5 * counts.sum()  # the rest lies on the edge, half void
        for one in (~void, ~void.T):  # between straight edges every line of the photo is in one piece
            assert (np.abs(np.diff(one.astype(int), axis=1, prepend=0, append=0)).sum(axis=1) <= 2).all()
        assert not (facade.occluder & void).any()
    assert 0.25 < wedged / len(facades) < 0.5  # in the CMP photos 0.44


def test_labels_lie_where_the_picture_shows_them(facades: list[Facade]):
    edges, elsewhere, brighter = [], [], []
    for facade in facades:
        grey, labels = facade.image.mean(-1), facade.labels
        step, boundary = np.abs(np.diff(grey, axis=1)), np.diff(labels.astype(int), axis=1) != 0
        edges.append(step[boundary].mean())
        elsewhere.append(step[~boundary].mean())
        if (labels == LABELS.index("sky")).sum() > 100:
            sky, glass = (grey[labels == LABELS.index(name)].mean() for name in ("sky", "window"))
            brighter.append(sky > glass)
    assert np.mean(edges) > 2 * np.mean(elsewhere)
    assert np.mean(brighter) > 0.95


def test_no_two_seeds_look_alike(facades: list[Facade]):
    thumbnails = np.stack([facade.image.reshape(16, 4, 16, 4, 3).mean((1, 3)).ravel() for facade in facades])
    distance = np.sqrt(((thumbnails[:, None, ::3] - thumbnails[None, :, ::3]) ** 2).mean(-1))
    assert distance[~np.eye(len(facades), dtype=bool)].min() > 10  # of 255 levels
    assert thumbnails.std(1).min() > 5  # and none is flat


def test_every_style_occurs(facades: list[Facade]):
    count = Counter(facade.style for facade in facades)
    assert set(count) == set(STYLES)
    assert min(count.values()) >= 5


@pytest.mark.parametrize(
    ("seed", "size", "error", "message"),
    [
        (-1, 64, ValueError, "seed -1 is negative; use one from 0"),
        (1.5, 64, TypeError, "seed 1.5 is not a whole number; use one from 0"),
        (0, 31, ValueError, "size 31 is outside 32 to 1024 px; use 32"),
        (0, (64, 2000), ValueError, r"size \(64, 2000\) is outside 32 to 1024 px; use 1024"),
        (0, (64,), ValueError, r"size \(64,\) has 1 numbers; use one side or \(height, width\)"),
        (0, 64.0, TypeError, "size 64.0 is not a whole number or a pair of them; use 224"),
        (0, (64, "64"), TypeError, "is not a whole number or a pair of them"),
    ],
)
def test_bad_input_gets_an_error_with_the_cure(seed, size, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        draw_facade(seed, size)
    with pytest.raises(error, match=message):
        draw_images([seed], size)
