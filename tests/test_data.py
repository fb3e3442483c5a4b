"""Data: what folders give, what is refused, splits without leakage, the drawn pool."""

import os
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from unwedged import draw_unwedged

from maelib.data import images as data
from maelib.data.images import (
    Images,
    Joined,
    StepSampler,
    drawn_pool,
    epoch_indices,
    near_duplicates,
    prefetch,
    read_folder,
    split,
)
from maelib.data.photos import PhotoError
from maelib.facades import draw_images


@pytest.fixture(scope="module")
def drawn():
    return draw_unwedged(40, 64)


def test_every_layout_and_range_of_npy_gives_the_same_image(tmp_path, drawn):
    image = drawn[0]
    unit = image.astype(np.float32) / 255
    alpha = np.full((64, 64, 1), 255, np.uint8)
    layouts = {
        "a-uint8-hwc": image,
        "b-uint8-chw": image.transpose(2, 0, 1),
        "c-unit-hwc": unit,
        "d-unit-chw": unit.transpose(2, 0, 1).astype(np.float64),
        "e-float-255": image.astype(np.float32),
        "f-rgba": np.concatenate([image, alpha], axis=2),
    }
    for name, array in layouts.items():
        np.save(tmp_path / f"{name}.npy", array)
    images, skipped = read_folder(tmp_path, 64)
    assert images.names == [f"{name}.npy" for name in layouts]
    assert skipped == []
    for i in range(len(layouts)):
        assert torch.equal(images[i], torch.from_numpy(image).permute(2, 0, 1)), images.names[i]


def test_grey_arrays_become_three_equal_channels(tmp_path):
    grey = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64).astype(np.uint8)
    np.save(tmp_path / "a.npy", grey)
    np.save(tmp_path / "b.npy", grey[..., None])
    images, _ = read_folder(tmp_path, 64)
    assert all(torch.equal(images[i], torch.from_numpy(grey).expand(3, 64, 64)) for i in range(2))


def test_rounding_past_1_does_not_turn_a_picture_black(tmp_path):
    np.save(tmp_path / "a.npy", np.full((32, 32, 3), 1.0000002))
    np.save(tmp_path / "b.npy", np.linspace(-1e-4, 1.0001, 32 * 32 * 3).reshape(32, 32, 3))
    images, _ = read_folder(tmp_path, 32)
    assert (images[0] == 255).all()
    assert (images[1].min(), images[1].max()) == (0, 255)


def test_photos_and_arrays_are_read_in_the_order_of_their_names(tmp_path, drawn, monkeypatch):
    Image.fromarray(drawn[1]).save(tmp_path / "b.png")
    np.save(tmp_path / "c.npy", drawn[2])
    np.save(tmp_path / "a.npy", drawn[0])
    (tmp_path / "notes.txt").write_text("not an image")
    images, _ = read_folder(tmp_path, 64)
    assert images.names == ["a.npy", "b.png", "c.npy"]
    assert np.array_equal(images.images, drawn[:3])


def test_photos_are_cropped_to_their_centre_square(tmp_path):
    wide = np.zeros((32, 96, 3), np.uint8)
    wide[:, 32:64] = 200
    np.save(tmp_path / "wide.npy", wide)
    images, _ = read_folder(tmp_path, 32)
    assert (images[0] == 200).all()


BAD = {
    "text.npy": (lambda p: p.write_text("hello"), "no array of plain numbers; save"),
    "objects.npy": (
        lambda p: np.save(p, np.array([{"a": 1}], dtype=object), allow_pickle=True),
        "no array of plain numbers; save",
    ),
    "nan.npy": (
        lambda p: np.save(p, np.full((32, 32, 3), np.nan)),
        "values run from nan to nan.*replace what is not finite",
    ),
    "negative.npy": (
        lambda p: np.save(p, np.full((32, 32, 3), -1.0)),
        "values run from -1 to -1.*undo a normalisation",
    ),
    "large.npy": (lambda p: np.save(p, np.full((32, 32, 3), 256.5)), "values run from 256.5 to 256.5"),
    "overshot.npy": (lambda p: np.save(p, np.full((32, 32, 3), 1.3)), "neither 0..1 nor 0..255"),
    "flat.npy": (lambda p: np.save(p, np.zeros(12, np.uint8)), "shape .12,. is no photo; save one"),
    "five.npy": (lambda p: np.save(p, np.zeros((32, 32, 5), np.uint8)), "shape .32, 32, 5. is no photo"),
    "empty.npy": (lambda p: np.save(p, np.zeros((0, 32, 3), np.uint8)), "shape .0, 32, 3. is no photo"),
    "complex.npy": (lambda p: np.save(p, np.zeros((32, 32, 3), np.complex64)), "values are complex64; save uint8"),
    "cut.npy": (lambda p: p.write_bytes(b"\x93NUMPY\x01\x00"), "damaged or cut short.*; save"),
    "broken.png": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\nnope"), "not an image of a known format; save"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_with_its_cure_or_listed_and_skipped(tmp_path, drawn, name):
    make, message = BAD[name]
    np.save(tmp_path / "good.npy", drawn[0])
    make(tmp_path / name)
    with pytest.raises(PhotoError, match=message) as error:
        read_folder(tmp_path, 32)
    assert name in str(error.value)
    images, skipped = read_folder(tmp_path, 32, skip_bad=True)
    assert images.names == ["good.npy"]
    assert len(skipped) == 1
    assert name in skipped[0]


def test_pickled_arrays_are_never_run(tmp_path, drawn):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    np.save(tmp_path / "bomb.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(PhotoError):
        read_folder(tmp_path, 32)
    assert not (tmp_path / "exploded").exists()


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder .*gone does not exist"):
        read_folder(tmp_path / "gone", 32)
    with pytest.raises(FileNotFoundError, match="holds no image that can be read"):
        read_folder(tmp_path, 32)


def test_near_duplicates_stay_on_one_side(drawn):
    noise = np.random.default_rng(0).integers(-6, 7, drawn.shape)
    copies = np.clip(drawn + noise, 0, 255).astype(np.uint8)  # the same facades, photographed again
    images = Images(np.concatenate([drawn, copies]), [str(i) for i in range(80)])
    groups = near_duplicates(images)
    assert (groups[:40] == groups[40:]).mean() > 0.9
    for seed in range(5):
        train, val = split(images, 0.25, seed)
        sides = [{int(name) % 40 for name in part.names} for part in (train, val)]
        leaked = sides[0] & sides[1]
        assert all(groups[i] != groups[i + 40] for i in leaked)
        assert len(leaked) <= 4


def test_distinct_facades_are_not_taken_for_duplicates(drawn):
    groups = near_duplicates(Images(drawn, [str(i) for i in range(40)]))
    assert len(np.unique(groups)) >= 38


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.floats(0.1, 0.9), st.integers(0, 99))
def test_a_split_parts_the_files_and_repeats_by_seed(drawn, count, share, seed):
    images = Images(drawn[:count], [f"{i}.npy" for i in range(count)])
    try:
        train, val = split(images, share, seed)
    except ValueError as error:
        assert "leaves a part empty" in str(error)  # noqa: PT017
        return
    assert sorted(train.names + val.names) == sorted(images.names)
    assert len(val) >= round(share * count)
    assert split(images, share, seed)[1].names == val.names
    val.images[:] = 0  # what happens to one part does not reach the other
    assert train.images.any()


def test_a_pool_is_drawn_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("MAELIB_CACHE", str(tmp_path))
    pool = drawn_pool(6, 32, seed=3, workers=1)
    assert np.array_equal(pool.images, draw_images(range(3_000_000, 3_000_006), 32))
    monkeypatch.setattr(data.facades, "draw_images", None)  # drawing again would fail
    assert np.array_equal(drawn_pool(6, 32, seed=3).images, pool.images)
    assert len(list(tmp_path.iterdir())) == 1


def test_several_processes_draw_what_one_draws(tmp_path, monkeypatch):
    monkeypatch.setenv("MAELIB_CACHE", str(tmp_path / "a"))
    two = np.array(drawn_pool(300, 32, workers=2).images)
    monkeypatch.setenv("MAELIB_CACHE", str(tmp_path / "b"))
    assert np.array_equal(two, drawn_pool(300, 32, workers=1).images)


def test_a_pool_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="count 0, seed 0"):
        drawn_pool(0, 32)


@settings(max_examples=50)
@given(st.integers(1, 20), st.integers(1, 30), st.integers(1, 12), st.integers(0, 99), st.data())
def test_each_image_comes_once_an_epoch_and_a_resumed_run_goes_on_alike(count, batch, steps, seed, draw):
    order = [i for batch_ in StepSampler(range(count), batch, steps, seed) for i in batch_]
    assert len(order) == steps * batch
    for epoch in range(len(order) // count):
        assert sorted(order[epoch * count : (epoch + 1) * count]) == list(range(count))
    first = draw.draw(st.integers(0, steps))
    resumed = StepSampler(range(count), batch, steps, seed, first)
    assert [i for batch_ in resumed for i in batch_] == order[first * batch :]
    assert len(resumed) == steps - first


@pytest.mark.parametrize(("photos", "drawn", "share"), [(40, 2000, 0.5), (40, 2000, 0.2), (300, 1000, 0.75)])
def test_a_folder_mixed_with_drawings_makes_up_the_share_asked_for(photos, drawn, share):
    times = np.bincount(epoch_indices(photos + drawn, drawn, share))
    assert (times[photos:] == 1).all()
    assert len(set(times[:photos])) == 1
    assert times[:photos].sum() / times.sum() == pytest.approx(share, abs=0.01)


def test_a_folder_or_drawings_alone_are_seen_once_an_epoch():
    assert epoch_indices(7, 0, 0.5).tolist() == epoch_indices(7, 7, 0.5).tolist() == list(range(7))
    assert np.bincount(epoch_indices(110, 10, 0.5)).tolist() == [1] * 110  # photos are never left out


def wedged(images: np.ndarray, fill: int = 128) -> np.ndarray:
    """Copies with a triangle of one colour over an eighth of them, at the lower right."""
    y, x = np.mgrid[: images.shape[1], : images.shape[2]]
    copies = images.copy()
    copies[:, x * 2 > 3 * images.shape[2] - y * 2] = fill
    return copies


def test_voids_go_with_their_images_through_subsets_and_sums(drawn):
    images = Images(np.concatenate([drawn[:5], wedged(drawn[5:9])]), [str(i) for i in range(9)]).with_wedges()
    _, voids = images.batch(list(range(9)))
    assert list(voids.any(dim=(1, 2))) == [False] * 5 + [True] * 4
    assert voids.shape == (9, 64, 64)
    part = images.subset([6, 1])
    assert torch.equal(part.batch([0, 1])[1], voids[[6, 1]])
    others = Images(drawn[:2], ["a", "b"])
    for total in (images + others, others + images, Joined(images, others), Joined(others, images)):
        first, other = total.names.index("0"), total.names.index("a")
        assert torch.equal(total.batch([first + 6])[1], voids[[6]])
        pixels, holes = total.batch([other, first + 6, other + 1, first + 1])
        assert torch.equal(pixels, torch.stack([others[0], images[6], others[1], images[1]]))
        assert torch.equal(holes, torch.stack([holes[0] & False, voids[6], holes[0] & False, voids[1]]))
        assert len(total) == 11
        again = total.subset([first + 1, other, first + 6]).subset([2, 0])
        assert again.names == ["6", "1"]
        assert torch.equal(again.batch([0, 1])[1], voids[[6, 1]])
        assert torch.equal(again.with_wedges().batch([0, 1])[0], torch.stack([images[6], images[1]]))
    assert torch.equal(images.batch([6, 1])[0], images.__getitems__([6, 1]))


def test_images_without_wedges_have_no_voids(drawn):
    images = Images(drawn, [str(i) for i in range(40)]).with_wedges()
    assert images.voids is None
    assert images.batch([0])[1] is None
    for total in (images + images, Joined(images, images)):
        assert total.with_wedges().batch([0, 41])[1] is None
    assert images.subset([1]).voids is None


def test_an_image_without_a_patch_free_of_wedges_is_refused(drawn):
    y, x = np.mgrid[:64, :64]
    photo = drawn[0].copy()
    photo[np.abs(x - 32) + np.abs(y - 32) > 30] = 0  # a diamond
    assert Images(photo[None], ["a.jpg"]).with_wedges(8).voids is not None
    with pytest.raises(ValueError, match=r"a\.jpg: flat wedges touch every patch of 32 px; crop them or leave it out"):
        Images(photo[None], ["a.jpg"]).with_wedges(32)


def test_threads_hand_out_the_batches_in_the_samplers_order(drawn):
    images, sampler = Images(drawn, [str(i) for i in range(40)]), StepSampler(range(40), 6, 23, seed=1)
    for (pixels, _), indices in zip(prefetch(images, sampler, threads=3), sampler, strict=True):
        assert torch.equal(pixels, images.__getitems__(indices))


def test_what_goes_wrong_in_a_thread_is_raised_and_no_thread_stays(drawn):
    before = threading.active_count()
    batches = prefetch(Images(drawn[:30], [str(i) for i in range(40)]), StepSampler(range(40), 6, 20, seed=1))
    with pytest.raises(IndexError):
        list(batches)
    batches = prefetch(Images(drawn, [str(i) for i in range(40)]), StepSampler(range(40), 6, 20, seed=1))
    next(batches)
    batches.close()
    assert threading.active_count() == before
