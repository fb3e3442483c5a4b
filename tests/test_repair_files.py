import os
import re
import resource
import subprocess
import sys
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from tiny import TINY

from maelib.data.photos import open_photo, read_photo
from maelib.facades import draw_images
from maelib.repair import files
from maelib.repair.files import ReconstructConfig, reconstruct, side_by_side
from maelib.transfer.compare import random_weights
from maelib.weights.checkpoint import save_model

BOX = (10, 8, 30, 24)
HOLE = np.zeros((40, 52), bool)
HOLE[8:24, 10:30] = True


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three photos with a mask each, a file that is not a photo, and a small model in place of the bundled one."""
    save_model(tmp_path / "model.safetensors", random_weights(replace(TINY, patch_size=4), 0), {})
    monkeypatch.setattr(files, "bundled_checkpoint", lambda: tmp_path / "model.safetensors")
    (tmp_path / "photos").mkdir()
    (tmp_path / "masks").mkdir()
    for name, photo in zip("abc", draw_images(range(3), (40, 52)), strict=True):
        Image.fromarray(photo).save(tmp_path / "photos" / f"{name}.png")
        Image.fromarray(HOLE).save(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "photos" / "notes.txt").write_text("not a photo")
    return tmp_path


def snapshot(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def run(photo, **options):
    """Repair with the box as mask unless another is given."""
    masks = {"mask", "mask_colour", "mask_alpha", "boxes"}
    return reconstruct(ReconstructConfig(photo, **({} if masks & options.keys() else {"boxes": (BOX,)}), **options))


def test_one_photo_gives_repair_mask_and_side_by_side(folder):
    before, out = snapshot(folder), folder / "out" / "repaired.png"
    photo = folder / "photos" / "a.png"
    (result,) = run(photo, mask=folder / "masks" / "a.png", out=out)
    assert str(result) == f"repaired  {out}"
    assert sorted(p.stem for p in out.parent.iterdir()) == ["repaired", "repaired_mask", "repaired_side_by_side"]
    original, repaired = read_photo(photo), read_photo(out)
    assert np.array_equal(repaired[~HOLE], original[~HOLE])
    assert (repaired[HOLE] != original[HOLE]).mean() > 0.5
    assert np.array_equal(read_photo(out.with_name("repaired_mask.png"))[..., 0] > 127, HOLE)
    assert before.items() <= snapshot(folder).items()  # no input has changed


def test_a_folder_is_repaired_and_a_second_run_does_only_what_is_missing(folder):
    options = {"photo": folder / "photos", "mask": folder / "masks"}
    assert [result.error or result.skipped for result in run(**options)] == [False] * 3
    made, out = snapshot(folder), folder / "photos" / "repaired"
    kinds = ("", "_mask", "_side_by_side")
    assert {path.name for path in out.iterdir()} == {f"{name}{kind}.png" for name in "abc" for kind in kinds}
    assert all("exists already" in str(result) for result in run(**options))
    assert snapshot(folder) == made
    (out / "b.png").unlink()
    (out / "c_mask.png").unlink()
    assert [result.skipped for result in run(**options)] == [True, False, False]
    now = snapshot(folder)
    assert {path for path in made if now[path][1] != made[path][1]} == {out / "b.png", out / "c_mask.png"}
    assert all(now[path][0] == made[path][0] for path in made)  # the same repairs again
    run(folder / "photos" / "a.png", boxes=((0, 0, 20, 20),), overwrite=True)
    assert (out / "a.png").read_bytes() != made[out / "a.png"][0]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("damaged", "damaged or cut short"),
        ("no mask", "masks holds no mask for it; add b_mask.png, white where"),
        (MemoryError, "no memory was left"),
        (RuntimeError, "no memory was left, or .*can't allocate"),
    ],
)
def test_a_photo_that_fails_is_reported_and_the_others_are_repaired(folder, fault, words, monkeypatch):
    bad, repaired = folder / "photos" / "b.png", np.zeros((40, 52, 3), np.uint8)
    if fault == "damaged":
        bad.write_bytes(bad.read_bytes()[:200])
    elif fault == "no mask":
        (folder / "masks" / "b.png").unlink()
    else:
        monkeypatch.setattr(files, "repair_photo", Mock(side_effect=[repaired, fault("can't allocate"), repaired]))
    results = run(folder / "photos", mask=folder / "masks")
    assert re.match(rf"failed    {bad}: .*{words}", str(results[1]))
    assert [result.error for result in (results[0], results[2])] == [None, None]
    assert {path.stem[0] for path in (folder / "photos" / "repaired").iterdir()} == {"a", "c"}


def test_masks_may_lie_beside_their_photos(folder):
    photos = folder / "photos"
    for name in "abc":
        (folder / "masks" / f"{name}.png").rename(photos / f"{name}_mask.png")
    results = run(photos, mask=photos)
    (photos / "a_mask.png").rename(photos / "hole.png")  # one mask for all photos is not a photo either
    results += run(photos, mask=photos / "hole.png", overwrite=True)
    assert [(result.photo.name, result.error) for result in results] == [(f"{n}.png", None) for n in "abcabc"]


@pytest.mark.parametrize("source", [{"mask_colour": (0, 0, 0)}, {"mask_alpha": True}, {"boxes": (BOX,)}], ids=str)
def test_every_source_of_masks_hides_the_same(folder, source):
    pixels = np.clip(read_photo(folder / "photos" / "a.png"), 60, 255)
    pixels[HOLE] = 0
    alpha = np.where(HOLE & ("mask_alpha" in source), 0, 200).astype(np.uint8)
    path, out = folder / "x.png", folder / "y.png"
    Image.fromarray(np.dstack([pixels, alpha])).save(path)
    assert run(path, out=out, **source)[0].error is None
    assert np.array_equal(read_photo(folder / "y_mask.png")[..., 0] > 127, HOLE)
    assert np.array_equal(open_photo(out).alpha, np.where(HOLE, 255, 200))  # what was missing can be seen now


def test_what_is_transparent_is_not_known_and_stays(folder):
    """Two files that look alike give the same repair, and each keeps its own invisible colours."""
    repaired, pixels = [], read_photo(folder / "photos" / "a.png")
    alpha = np.full(HOLE.shape, 255, np.uint8)
    alpha[:, :14] = 0
    for name, colour in (("black", 0), ("white", 255)):
        pixels[:, :14] = colour
        Image.fromarray(np.dstack([pixels, alpha])).save(folder / f"{name}.png")
        assert run(folder / f"{name}.png", out=folder / f"{name}_out.png")[0].error is None
        photo = open_photo(folder / f"{name}_out.png")
        assert np.array_equal(photo.pixels[~HOLE], pixels[~HOLE])
        assert np.array_equal(photo.alpha, np.where(HOLE, 255, alpha))
        repaired.append(photo.pixels[HOLE])
    assert np.array_equal(*repaired)
    (result,) = run(folder / "black.png", out=folder / "black.jpg")
    assert "black.jpg: .jpg cannot hold what is transparent in the photo; use .png" in result.error
    assert not (folder / "black.jpg").exists()


def test_a_jpeg_is_repaired_without_loss_unless_asked(folder):
    path, dotted = folder / "x.jpg", folder / "v1.2"
    Image.open(folder / "photos" / "a.png").save(path)
    dotted.mkdir()  # a folder that exists may have a dot in its name
    run(path, out=dotted)
    assert np.array_equal(read_photo(dotted / "x.png")[~HOLE], read_photo(path)[~HOLE])
    run(path, out=folder / "y.jpg")
    assert Image.open(folder / "y.jpg").format == "JPEG"


def test_no_input_is_ever_written_over(folder):
    Image.fromarray(HOLE).save(folder / "x_mask.png")
    Image.open(folder / "photos" / "a.png").save(folder / "photos" / "b.jpg")  # its repair would be b.png
    before, photo, mask = snapshot(folder), folder / "photos" / "a.png", folder / "x_mask.png"
    for out, refused in ((photo, photo), (mask, mask), (folder / "x.png", mask)):  # beside x.png goes x_mask.png
        (result,) = run(photo, mask=mask, out=out, overwrite=True)
        assert f"{refused} is an input or another photo's; rename the photo or change --out" in result.error
    assert all(result.error for result in run(folder / "photos", out=folder / "photos", overwrite=True))
    assert snapshot(folder) == before


@pytest.mark.parametrize("other", ["a.jpg", "a.tif", "a_side_by_side.png"])
def test_two_photos_never_share_a_file(folder, other):
    Image.open(folder / "photos" / "b.png").save(folder / "photos" / other)
    results = {result.photo.name: result for result in run(folder / "photos", overwrite=True)}
    last = max("a.png", other)
    assert "rename the photo" in results[last].error
    assert [name for name, result in results.items() if result.error] == [last]


@pytest.mark.parametrize("masks", [{}, {"mask_alpha": True, "boxes": (BOX,)}, {"mask": "m", "mask_colour": (0, 0, 0)}])
def test_exactly_one_kind_of_mask_is_needed(masks):
    with pytest.raises(ValueError, match=rf"{len(masks)} kinds of mask .*use one of --mask, --mask-colour,"):
        ReconstructConfig("a.png", **masks)


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_computed(folder, monkeypatch):
    monkeypatch.setattr(files, "load_model", lambda *args: pytest.fail("a model was loaded"))
    (folder / "file").write_text("in the way")
    (folder / "empty").mkdir()
    for photo, out, words in (
        ("photos", "one.png", r"one\.png is a file, but several files go there; name a folder"),
        ("photos/a.png", "file", "file is a file"),
        ("photos/a.png", "fixed.gif", r"fixed\.gif: suffix '\.gif' cannot be written; use one of .*\.png"),
        ("photos", "v1.2", r"v1\.2: suffix '\.2' cannot be written"),
    ):
        with pytest.raises(ValueError, match=words):
            run(folder / photo, out=folder / out)
    with pytest.raises(FileNotFoundError, match=r"empty holds no photo; put images or \.npy arrays into it"):
        run(folder / "empty")


def test_a_name_that_is_not_utf8_can_be_printed(folder):
    path = os.path.join(os.fsencode(folder), b"fa\xe7ade.png")
    os.rename(folder / "photos" / "a.png", path)
    (result,) = run(folder / os.fsdecode(b"fa\xe7ade.png"))
    assert result.error is None
    assert r"fa\udce7ade.png" in str(result).encode("utf-8").decode()


def test_the_side_by_side_shows_photo_hole_and_repair():
    photo, repaired = draw_images([0, 1], (40, 52))
    sheet = side_by_side(photo, HOLE, repaired)
    assert np.array_equal(sheet[:, :52], photo)
    assert np.array_equal(sheet[:, -52:], repaired)
    middle = sheet[:, (sheet.shape[1] - 52) // 2 :][:, :52]
    assert (middle[HOLE] == 128).all()
    assert np.array_equal(middle[~HOLE], photo[~HOLE])
    assert side_by_side(*(np.repeat(x, 60, axis=0) for x in (photo, HOLE, repaired))).shape[0] == 1024


@pytest.mark.slow
def test_150_megapixels_are_repaired_in_4_gigabytes(tmp_path):
    photo = np.resize(draw_images([0], 500)[0], (12_500, 12_000, 3))
    Image.fromarray(photo).save(tmp_path / "a.png", compress_level=1)
    words = ["reconstruct", tmp_path / "a.png", "--boxes", "5000", "5000", "6000", "6000", "--out", tmp_path / "b.png"]
    subprocess.run([sys.executable, "-m", "maelib", *words], check=True)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 4e6  # kilobytes
