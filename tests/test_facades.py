"""Drawn facades: what a seed promises, what the labels promise, and what the occluders promise."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from maelib.facades import LABELS, STYLES, Facade, draw_facade, draw_images

# Mean shares in 252 label maps of the CMP Facade Database.
# Trim is their cornices, sills, decoration, mouldings and pillars; elsewhere is what is no facade.
CMP_SHARES = {"wall": 0.395, "window": 0.135, "door": 0.013, "trim": 0.205, "balcony": 0.042, "shutter": 0.022,
              "shop": 0.033, "elsewhere": 0.154}  # fmt: skip
SIDES = st.integers(32, 128) | st.sampled_from([32, 224])


@pytest.fixture(scope="module")
def facades() -> list[Facade]:
    return [draw_facade(seed, 64, occluders=True) for seed in range(200)]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**64), height=SIDES, width=SIDES)
@example(seed=36, height=224, width=32)  # its occluders cannot cover enough
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


@pytest.mark.parametrize("size", [(32, 1024), (1024, 32), (1024, 1024)])
def test_largest_and_longest_sizes_are_drawn(size: tuple[int, int]):
    facade = draw_facade(3, size, occluders=True)
    assert facade.image.shape[:2] == size
    assert facade.occluder.mean() >= 0.02
    assert len(np.unique(facade.labels)) >= 4


def test_a_seed_is_one_scene_at_every_size():
    # the grain is finer in a larger picture, so the two agree in what is drawn, not in every pixel
    for seed in range(20):
        small, large = (draw_facade(seed, size).image.astype(float) for size in (64, 192))
        pooled = large.reshape(64, 3, 64, 3, 3).mean((1, 3))
        assert np.corrcoef(small.ravel(), pooled.ravel())[0, 1] > 0.85, seed


def test_draw_images_are_the_pictures_of_draw_facade():
    images = draw_images([7, 3], (40, 56))
    assert images.dtype == np.uint8
    assert np.array_equal(images, [draw_facade(seed, (40, 56)).image for seed in (7, 3)])
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


def test_classes_occur_as_often_as_in_photos(facades: list[Facade]):
    counts = np.stack([np.bincount(facade.labels.ravel(), minlength=len(LABELS)) for facade in facades]) / 64**2
    shares = dict(zip(LABELS, counts.T, strict=True))
    mean = {name: share.mean() for name, share in shares.items()}
    assert max(mean, key=mean.get) == "wall"
    ranges = ("wall", 0.25, 0.5), ("window", 0.1, 0.25), ("sky", 0.05, 0.2)
    assert all(low < mean[name] < high for name, low, high in ranges), mean
    assert all(share > 0.003 for share in mean.values()), mean
    mean["elsewhere"] = sum(share for name, share in mean.items() if name not in CMP_SHARES)
    for name, theirs in CMP_SHARES.items():
        assert theirs / 2 < mean[name] < theirs * 2, (name, mean[name], theirs)
    built = shares["wall"] + shares["window"] + shares["trim"] + shares["balcony"] + shares["shop"]
    assert np.quantile(built, 0.05) > 0.35  # a facade, not a street with a house in it
    assert np.quantile(shares["window"], [0.05, 0.95]) == pytest.approx([0.1, 0.25], abs=0.06)


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
    assert min([facade.style for facade in facades].count(style) for style in STYLES) >= 5
