"""The CMP Facade Database: fetched from a server that fails, read as everybody reads it."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from unwedged import unwedged_seeds

from maelib.cli import main
from maelib.data.cmp import CMP_CLASSES, cmp_photos, fetch_cmp, read_cmp, read_photos
from maelib.data.photos import PhotoError
from maelib.downloads import DownloadError
from maelib.facades import draw_facade

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "cmp_original_sample"


SEEDS = unwedged_seeds(7, size=(96, 64))


def archive(part: str, seeds: list[int]) -> bytes:
    """Drawn facades in the layout of the official archive; the very first has a grey wedge over a quarter of it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for n, seed in enumerate(seeds, 1):
            facade, name = draw_facade(seed, (96, 64)), f"{part}/cmp_{'bx'[part == 'extended']}{n:04d}"
            photo, labels = facade.image.copy(), Image.fromarray(facade.labels % 12 + 1).convert("P")
            if seed == SEEDS[0]:
                y, x = np.mgrid[:96, :64]
                photo[x * 96 / 2 > y * 64] = 128
            for suffix, image in ((".jpg", Image.fromarray(photo)), (".png", labels)):
                data = io.BytesIO()
                image.save(data, "JPEG" if suffix == ".jpg" else "PNG", **({"quality": 95} if suffix == ".jpg" else {}))
                file.writestr(name + suffix, data.getvalue())
            file.writestr(f"{name}.xml", "<object/>")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def archives():
    return {
        "/CMP_facade_DB_base.zip": archive("base", SEEDS[:4]),
        "/CMP_facade_DB_extended.zip": archive("extended", SEEDS[4:]),
    }


@pytest.fixture
def folder(server, archives, tmp_path):
    server.files |= archives
    fetch_cmp(tmp_path / "cmp", server.url)
    return tmp_path / "cmp"


def test_both_parts_are_fetched_unpacked_and_read(folder):
    images, labels, skipped = read_cmp(folder, 32)
    assert images.names == [f"cmp_b{n:04d}.jpg" for n in range(1, 5)] + [f"cmp_x{n:04d}.jpg" for n in range(1, 4)]
    assert skipped == []
    assert images.images.shape == (7, 32, 32, 3)
    for i, seed in enumerate(SEEDS):
        facade = draw_facade(seed, (96, 64))
        if i:
            squashed = np.asarray(Image.fromarray(facade.image).resize((32, 32), Image.Resampling.LANCZOS)).astype(int)
            assert np.abs(squashed - images.images[i]).mean() < 4  # JPEG
        rows, columns = (np.arange(32) * 2 + 1) * 96 // 64, (np.arange(32) * 2 + 1) * 64 // 64
        assert np.array_equal(labels[i], (facade.labels % 12 + 1)[rows[:, None], columns])  # the pixel in the middle


def test_wedges_come_with_the_photos(folder):
    images, _, _ = read_cmp(folder, 64)
    _, voids = images.batch(list(range(7)))
    assert list(voids.any(dim=(1, 2))) == [True] + [False] * 6
    assert voids[0].float().mean() == pytest.approx(0.25, abs=0.03)  # and the frayed edge


def test_a_second_call_fetches_nothing_and_a_changed_archive_is_refused(folder, server):
    sent = server.sent
    fetch_cmp(folder, server.url)
    assert server.sent == sent
    (folder / "CMP_facade_DB_base.zip").write_bytes(b"another")
    with pytest.raises(DownloadError, match=r"delete CMP_facade_DB_base\.zip and .*to fetch it anew"):
        fetch_cmp(folder, server.url)


def test_what_breaks_off_goes_on_and_what_is_truncated_is_never_taken_for_whole(server, archives, tmp_path):
    server.files |= archives
    server.files["/CMP_facade_DB_extended.zip"] = archives["/CMP_facade_DB_extended.zip"][:-500]
    server.faults, server.cut = ["cut"], 9000
    with pytest.raises(DownloadError, match=r"cut short .*delete CMP_facade_DB_extended\.zip and .*\.sha256"):
        fetch_cmp(tmp_path, server.url)
    assert server.asked == [0, 9000, 0]
    assert [path.name for path in cmp_photos(tmp_path)] == [f"cmp_b{n:04d}.jpg" for n in range(1, 5)]


def test_a_damaged_item_is_named_or_skipped(folder):
    base = folder / "CMP_facade_DB_base" / "base"
    (base / "cmp_b0002.png").unlink()
    (base / "cmp_b0003.jpg").write_bytes(b"no photo")
    Image.fromarray(np.zeros((96, 64), np.uint8)).save(base / "cmp_b0004.png")
    with pytest.raises(PhotoError, match=r"cmp_b0002\.png: no label map can be read"):
        read_cmp(folder, 32)
    images, labels, skipped = read_cmp(folder, 32, skip_bad=True)
    assert len(images) == len(labels) == 4
    assert len(skipped) == 3
    assert "labels 0 to 0 is no map of labels 1 to 12 for a photo of (96, 64)" in skipped[2]
    assert len(read_photos(folder, 32, skip_bad=True)[0]) == 6  # training needs no labels


def test_other_folders_are_read_as_ever(folder, tmp_path):
    Image.fromarray(draw_facade(0, 64).image).save(tmp_path / "mine.png")  # beside the folder that holds the database
    assert read_photos(tmp_path, 32)[0].names == ["mine.png"]
    with pytest.raises(FileNotFoundError, match="run `maelib fetch cmp`"):
        read_cmp(tmp_path / "gone", 32)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_photos(tmp_path / "gone", 32)


def test_the_command_fetches_and_what_it_fetched_can_be_trained_on(server, archives, tmp_path, capsys):
    server.files |= archives
    out = tmp_path / "cmp"
    main(["fetch", "cmp", "--out", str(out), "--source", server.url])
    printed = capsys.readouterr().out
    assert f"7 photos in {out}; train with: maelib train --data {out}" in printed
    assert "cite R. Tyleček" in printed
    small = ["--embed-dim", "16", "--num-heads", "1", "--depth", "1", "--decoder-embed-dim", "16"]
    small += ["--decoder-num-heads", "1", "--decoder-depth", "1", "--steps", "2", "--batch-size", "2"]
    main(["train", "--data", str(out), "--out", str(tmp_path / "run"), *small])


def test_the_original_layout_is_read():
    if not SAMPLE.is_dir():
        pytest.skip("the original CMP items are not here; they are in shared/data beside the repository")
    images, labels, _ = read_cmp(SAMPLE, 64)
    assert images.names[:2] == ["cmp_b0001.jpg", "cmp_b0014.jpg"]
    assert len(images) == 8
    shares = np.bincount(labels.ravel(), minlength=13) / labels.size
    assert shares[0] == 0
    assert len(shares) == 1 + len(CMP_CLASSES)
    assert shares[1 + CMP_CLASSES.index("facade")] > 0.2
    window, facade = (images.images[labels == 1 + CMP_CLASSES.index(name)].mean() for name in ("window", "facade"))
    assert window < facade - 10  # by daylight windows are the darker: names and numbers belong together
