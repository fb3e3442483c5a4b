"""Datasets: what folders give, what is refused, splits without leakage, drawn facades, batches in order."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import draw_plain, fill_folder

from maelib.cli import main
from maelib.data.images import DrawnImages, FolderImages, StepSampler, epoch_indices, prefetch, split
from maelib.data.photos import PhotoError, open_photo
from maelib.facades import LABELS, draw_facade, draw_rgba

DRAWN = draw_plain(3, 64)


@pytest.fixture
def folder(tmp_path):
    return fill_folder(tmp_path / "facades")


def pixels(image):
    return image[:3].permute(1, 2, 0).numpy()


def batch(images, indices):
    return torch.stack([images[i] for i in indices])


# ---------------------------------------------------------------------------------------------------------- folders


def test_photos_and_arrays_come_in_the_order_of_their_names(tmp_path):
    Image.fromarray(DRAWN[1]).save(tmp_path / "b.png")
    np.save(tmp_path / "c.npy", DRAWN[2])
    np.save(tmp_path / "a.npy", DRAWN[0])
    images = FolderImages(tmp_path, 64)
    assert images.names == ["a.npy", "b.png", "c.npy"]
    assert all(np.array_equal(pixels(image), expected) for image, expected in zip(images, DRAWN, strict=True))


@pytest.mark.parametrize("size", [32, 96])
def test_a_photo_is_cropped_to_its_centre_square(tmp_path, size):
    wide = np.zeros((64, 192, 3), np.uint8)
    wide[:, 64:128] = 200
    np.save(tmp_path / "wide.npy", wide)
    assert (FolderImages(tmp_path, size)[0][:3] == 200).all()


def test_what_a_photo_leaves_transparent_is_transparent(tmp_path):
    alpha = np.full((64, 64), 255, np.uint8)
    alpha[:, :10] = 0
    Image.fromarray(np.dstack([DRAWN[0], alpha])).save(tmp_path / "cut.png")
    assert np.array_equal(FolderImages(tmp_path, 64)[0][3], alpha)
    assert np.array_equal(FolderImages(tmp_path, 24)[0][3, 0] > 0, np.arange(24) >= 4)  # a pixel that holds any of it


def test_flat_corners_become_transparent_when_asked(tmp_path):
    y, x = np.mgrid[:64, :64]
    corner = 2 * x > 192 - 2 * y
    np.save(tmp_path / "a.npy", np.where(corner[..., None], np.uint8(128), DRAWN[0]))
    found = FolderImages(tmp_path, 64)[0][3] == 0
    assert found[corner].all()
    assert found.sum() < 1.3 * corner.sum()
    assert (FolderImages(tmp_path, 64, border_fill=False)[0][3] == 255).all()


def test_a_bad_file_stops_with_its_name_and_the_cure(folder, tmp_path):
    (folder / "05.npy").write_bytes(b"cut short")
    np.save(folder / "06.npy", np.zeros((32, 32, 4), np.uint8))
    images = FolderImages(folder, 32)
    images[4]
    for index, words in {5: r"05\.npy: .*damaged", 6: r"06\.npy: is all border fill or transparent"}.items():
        with pytest.raises(PhotoError, match=f"{words}.*--skip-bad"):
            images[index]
    with pytest.raises(FileNotFoundError, match="holds no photo"):
        FolderImages(tmp_path, 32)


def test_skipped_files_are_warned_of_once_and_the_next_one_stands_in(folder):
    images = FolderImages(folder, 32, skip_bad=True)
    (folder / "05.npy").unlink()
    (folder / "06.npy").write_bytes(b"cut short")
    (folder / "23.npy").unlink()
    with pytest.warns(UserWarning, match="left out: ") as told:
        seen = batch(images, [5, 23, 1, 5])
    assert torch.equal(seen, batch(images, [7, 0, 1, 7]))
    assert len(told) == 3
    assert images.skipped.keys() == {"05.npy", "06.npy", "23.npy"}
    gone = FolderImages(folder, 32, skip_bad=True, files=[folder / "gone.npy"])
    with pytest.warns(UserWarning, match="left out"), pytest.raises(PhotoError, match="none of its 1 files"):
        gone[0]


def test_a_file_is_read_once_as_long_as_it_fits_into_the_cache(folder, monkeypatch):
    images = FolderImages(folder, 32)
    monkeypatch.setattr("maelib.data.images.CACHE_BYTES", 2 * 4 * 32 * 32)
    before = batch(images, [0, 1, 2])
    for path in folder.iterdir():
        path.write_bytes(b"")
    assert torch.equal(batch(images, [0, 1]), before[:2])
    with pytest.raises(PhotoError):
        images[2]


# ------------------------------------------------------------------------------------------------------------ splits


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 24), st.floats(0.01, 0.99), st.integers(0, 99))
def test_a_split_divides_the_files_and_repeats_by_seed(facades, number, share, seed):
    images = FolderImages(facades, 32, files=sorted(facades.iterdir())[:number])
    train, val = split(images, share, seed)
    assert sorted(train.names + val.names) == images.names
    assert len(val) == min(max(round(share * number), 1), number - 1)
    assert split(images, share, seed)[1].names == val.names


def test_only_the_validation_images_that_are_used_are_read(folder, monkeypatch):
    read = []
    monkeypatch.setattr("maelib.data.images.open_photo", lambda path: read.append(path) or open_photo(path))
    _, val = split(FolderImages(folder, 32), 0.25, 3, val_images=2)
    assert len(val) == 2
    assert read == val.files
    with pytest.raises(ValueError, match="holds 1 image, and a split needs 2"):
        split(val.subset([0]), 0.5, 0)


def test_training_leaves_out_what_nearly_equals_a_validation_image_and_nothing_else(folder):
    train, val = split(FolderImages(folder, 32), 0.25, 3)
    rng, twins = np.random.default_rng(0), train.files[: len(val)]
    for file, twin in zip(val.files, twins, strict=True):  # the same facade, photographed again
        np.save(twin, (np.load(file) + rng.integers(-3, 4, (32, 32, 3))).clip(0, 255).astype(np.uint8))
    with pytest.warns(UserWarning, match=r"left out: .*\.npy: nearly equals"):
        batch(train, range(len(train)))
    assert train.skipped.keys() == {twin.name for twin in twins}


# --------------------------------------------------------------------------------------------------------------- CMP


def archive(folder: Path, part: str, seeds: list[int]) -> bytes:
    """Drawn facades in the layout of the official archive: photos, label maps, boxes."""
    (folder / part).mkdir(parents=True)
    for n, seed in enumerate(seeds, 1):
        facade, name = draw_facade(seed, (96, 64)), folder / part / f"cmp_{part[0].replace('e', 'x')}{n:04d}"
        Image.fromarray(facade.image).save(f"{name}.jpg")
        Image.fromarray(facade.labels).save(f"{name}.png")
        Path(f"{name}.xml").touch()
    return Path(shutil.make_archive(folder / part, "zip", folder, part)).read_bytes()


@pytest.mark.filterwarnings("ignore:.*other kinds")
def test_the_cmp_database_is_fetched_once_and_read_squeezed_without_its_label_maps(server, tmp_path, monkeypatch):
    monkeypatch.setattr("maelib.data.images.CMP_URL", server.url)
    for part, seeds in {"base": [1, 2, 3], "extended": [4, 5]}.items():
        server.files[f"/CMP_facade_DB_{part}.zip"] = archive(tmp_path / "made", part, seeds)
    for _ in range(2):
        main(["fetch", "cmp", "--out", str(tmp_path / "cmp")])
    assert server.asked == [0, 0]
    images = FolderImages(tmp_path / "cmp", 48)
    assert images.names == ["cmp_b0001.jpg", "cmp_b0002.jpg", "cmp_b0003.jpg", "cmp_x0001.jpg", "cmp_x0002.jpg"]
    assert FolderImages(images.files[0].parent, 48).names == images.names[:3]
    squeezed = Image.fromarray(draw_facade(1, (96, 64)).image).resize((48, 48), Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(squeezed).astype(int) - pixels(images[0])).mean() < 6  # JPEG
    np.save(tmp_path / "cmp" / "own.npy", np.zeros((64, 64, 3), np.uint8))
    assert FolderImages(tmp_path / "cmp", 48).names == ["own.npy"]


# ----------------------------------------------------------------------------------------------------- drawn facades


def test_facades_are_drawn_once_and_know_where_they_are_empty(tmp_path, monkeypatch):
    monkeypatch.setenv("MAELIB_CACHE", str(tmp_path))
    images = DrawnImages(12, 32, seed=3)
    for i in range(12):
        facade = draw_facade(3_000_000 + i, 32)
        assert np.array_equal(pixels(images[i]), facade.image)
        assert np.array_equal(images[i][3] == 0, facade.labels == LABELS.index("void"))
    assert any((images[i][3] == 0).any() for i in range(12))
    monkeypatch.setattr("maelib.facades.draw_rgba", None)  # drawing again would fail
    assert torch.equal(DrawnImages(12, 32, seed=3)[5], images[5])
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ValueError, match="count 0, seed 3: draw 1 to 1000000"):
        DrawnImages(0, 32, seed=3)


def test_a_script_without_a_main_guard_draws_in_processes_what_one_process_draws(tmp_path):
    """As a first script is written; processes that import it anew would draw for ever."""
    script = tmp_path / "first.py"
    script.write_text("from maelib.data.images import DrawnImages\nprint(len(DrawnImages(1001, 32, workers=2)))\n")
    environment = {"MAELIB_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(Path(__file__).parents[1])}
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert run.stdout == "1001\n", run.stderr
    (drawn,) = (tmp_path / "cache").iterdir()
    assert np.array_equal(np.load(drawn), draw_rgba(range(1001), 32))


# ----------------------------------------------------------------------------------------------------------- batches


@settings(max_examples=50)
@given(st.integers(1, 20), st.integers(1, 30), st.integers(1, 12), st.integers(0, 99), st.data())
def test_each_image_comes_once_an_epoch_and_a_resumed_run_continues_alike(count, size, steps, seed, draw):
    whole = list(StepSampler(range(count), size, steps, seed))
    order = [i for some in whole for i in some]
    assert len(order) == steps * size
    for epoch in range(len(order) // count):
        assert sorted(order[epoch * count : (epoch + 1) * count]) == list(range(count))
    first = draw.draw(st.integers(0, steps))
    resumed = StepSampler(range(count), size, steps, seed, first)
    assert list(resumed) == whole[first:]
    cut = draw.draw(st.integers(0, size))
    parts = (StepSampler(range(count), size, steps, seed, part=part) for part in (slice(cut), slice(cut, size)))
    assert [a + b for a, b in zip(*parts, strict=True)] == whole  # what several processes take is all of it


@pytest.mark.parametrize(
    ("photos", "drawings", "share", "often"),
    [(40, 2000, 0.5, 50), (40, 2000, 0.2, 12), (30, 100, 0.75, 10), (7, 0, 0.5, 1), (0, 7, 0.5, 1), (100, 10, 0.5, 1)],
)
def test_photos_are_seen_so_often_that_they_make_up_their_share_and_never_left_out(photos, drawings, share, often):
    times = np.bincount(epoch_indices(photos + drawings, drawings, share))
    assert times.tolist() == [often] * photos + [1] * drawings


def test_threads_hand_out_the_batches_in_the_samplers_order(facades):
    images, sampler = FolderImages(facades, 32), StepSampler(range(24), 6, 23, seed=1)
    for (indices, rgba), expected in zip(prefetch(images, sampler, threads=3), sampler, strict=True):
        assert indices == expected
        assert torch.equal(rgba, batch(images, expected))


def test_what_goes_wrong_in_a_thread_is_raised_and_no_thread_stays(folder):
    (folder / "03.npy").write_bytes(b"")
    before = threading.active_count()
    with pytest.raises(PhotoError):
        list(prefetch(FolderImages(folder, 32), StepSampler(range(24), 6, 20, seed=1)))
    batches = prefetch(FolderImages(folder, 32), StepSampler(range(3), 3, 20, seed=1))
    next(batches)
    batches.close()
    assert threading.active_count() == before
