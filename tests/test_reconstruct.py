import numpy as np
import pytest
import torch
from PIL import Image

from maelib.data.photos import open_photo, read_photo
from maelib.facades import draw_images
from maelib.model import MAEConfig, MaskedAutoencoder
from maelib.repair.files import ReconstructConfig, reconstruct, side_by_side
from maelib.weights import checkpoint

BOX = (10, 8, 30, 24)
HOLE = np.zeros((40, 52), bool)
HOLE[8:24, 10:30] = True


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    config = MAEConfig(img_size=32, patch_size=4, embed_dim=16, depth=1, num_heads=1, decoder_embed_dim=16,
                       decoder_depth=1, decoder_num_heads=1)  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MaskedAutoencoder(config)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    checkpoint.save_model(path, model, {})
    return path


@pytest.fixture
def folder(tmp_path):
    """Three photos with a mask each, and a file that is no photo."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "masks").mkdir()
    for name, photo in zip("abc", draw_images(range(3), (40, 52)), strict=True):
        Image.fromarray(photo).save(tmp_path / "photos" / f"{name}.png")
        Image.fromarray(HOLE).save(tmp_path / "masks" / f"{name}.png")
    (tmp_path / "photos" / "notes.txt").write_text("not a photo")
    return tmp_path


def snapshot(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_one_photo_gives_repair_mask_and_side_by_side(folder, weights):
    before, out = snapshot(folder), folder / "out" / "repaired.png"
    photo, mask = folder / "photos" / "a.png", folder / "masks" / "a.png"
    (result,) = reconstruct(ReconstructConfig(photo, checkpoint=weights, mask=mask, out=out))
    assert result.error is None
    assert str(result) == f"repaired  {out}"
    assert sorted(path.name for path in out.parent.iterdir()) == [
        "repaired.png", "repaired_mask.png", "repaired_side_by_side.png"
    ]  # fmt: skip
    original, repaired = read_photo(photo), read_photo(out)
    assert np.array_equal(repaired[~HOLE], original[~HOLE])
    assert (repaired[HOLE] != original[HOLE]).mean() > 0.5
    assert np.array_equal(read_photo(out.with_name("repaired_mask.png"))[..., 0] > 127, HOLE)
    assert before.items() <= snapshot(folder).items()  # no input has changed


def test_a_folder_is_repaired_and_a_second_run_does_only_what_is_missing(folder, weights):
    config = ReconstructConfig(folder / "photos", checkpoint=weights, mask=folder / "masks")
    assert [result.error or result.skipped for result in reconstruct(config)] == [False] * 3
    made = snapshot(folder)
    out = folder / "photos" / "repaired"
    assert sorted(path.name for path in out.iterdir()) == sorted(
        f"{name}{kind}.png" for name in "abc" for kind in ("", "_mask", "_side_by_side")
    )
    again = reconstruct(config)
    assert all(result.skipped for result in again)
    assert "there already" in str(again[0])
    assert snapshot(folder) == made
    (out / "b.png").unlink()
    (out / "c_mask.png").unlink()
    assert [result.skipped for result in reconstruct(config)] == [True, False, False]
    now = snapshot(folder)
    assert {path for path in made if now[path][1] != made[path][1]} == {out / "b.png", out / "c_mask.png"}
    assert all(now[path][0] == made[path][0] for path in made)  # the same repairs again


def test_overwrite_repairs_again(folder, weights):
    photo, out = folder / "photos" / "a.png", folder / "repaired.png"
    reconstruct(ReconstructConfig(photo, checkpoint=weights, boxes=(BOX,), out=out))
    first = out.read_bytes()
    boxes = ((0, 0, 20, 20),)
    reconstruct(ReconstructConfig(photo, checkpoint=weights, boxes=boxes, out=out))
    assert out.read_bytes() == first
    reconstruct(ReconstructConfig(photo, checkpoint=weights, boxes=boxes, out=out, overwrite=True))
    assert out.read_bytes() != first


def test_a_bad_file_is_reported_and_the_others_are_repaired(folder, weights):
    (folder / "photos" / "b.png").write_bytes((folder / "photos" / "b.png").read_bytes()[:200])
    (folder / "masks" / "c.png").unlink()
    results = reconstruct(ReconstructConfig(folder / "photos", checkpoint=weights, mask=folder / "masks"))
    assert results[0].error is None
    assert "b.png: damaged or cut short" in results[1].error
    assert str(results[1]).startswith("failed    ")
    assert results[2].error.endswith("masks holds no mask for it; add c_mask.png, white where to repair")
    assert sorted(path.stem for path in (folder / "photos" / "repaired").iterdir()) == ["a", "a_mask", "a_side_by_side"]


def test_masks_may_lie_beside_their_photos(folder, weights):
    for name in "abc":
        (folder / "masks" / f"{name}.png").rename(folder / "photos" / f"{name}_mask.png")
    results = reconstruct(ReconstructConfig(folder / "photos", checkpoint=weights, mask=folder / "photos"))
    assert [(result.photo.name, result.error) for result in results] == [(f"{n}.png", None) for n in "abc"]


@pytest.mark.parametrize("source", ["colour", "alpha", "boxes"])
def test_every_source_of_masks_hides_the_same(folder, weights, source):
    pixels = np.clip(read_photo(folder / "photos" / "a.png"), 60, 255)
    pixels[HOLE] = 0
    alpha = np.where(HOLE, 0, 200).astype(np.uint8)
    path, out = folder / "x.png", folder / "y.png"
    Image.fromarray(np.dstack([pixels, alpha])).save(path)
    given = {"colour": {"mask_colour": (0, 0, 0)}, "alpha": {"mask_alpha": True}, "boxes": {"boxes": (BOX,)}}[source]
    (result,) = reconstruct(ReconstructConfig(path, checkpoint=weights, out=out, **given))
    assert result.error is None
    assert np.array_equal(read_photo(folder / "y_mask.png")[..., 0] > 127, HOLE)
    repaired = open_photo(out)
    assert np.array_equal(repaired.pixels[~HOLE], pixels[~HOLE])
    assert np.array_equal(repaired.alpha, np.where(HOLE, 255, 200))  # what was missing can be seen now


def test_a_jpeg_is_repaired_without_loss_unless_asked(folder, weights):
    path = folder / "x.jpg"
    Image.open(folder / "photos" / "a.png").save(path)
    (result,) = reconstruct(ReconstructConfig(path, checkpoint=weights, boxes=(BOX,)))
    assert result.out == folder / "repaired" / "x.png"
    assert np.array_equal(read_photo(result.out)[~HOLE], read_photo(path)[~HOLE])
    (result,) = reconstruct(ReconstructConfig(path, checkpoint=weights, boxes=(BOX,), out=folder / "y.jpg"))
    assert Image.open(result.out).format == "JPEG"


def test_no_input_is_ever_written_over(folder, weights):
    before = snapshot(folder)
    photo, mask = folder / "photos" / "a.png", folder / "masks" / "a.png"
    for out in (photo, mask):
        config = ReconstructConfig(photo, checkpoint=weights, mask=mask, out=out, overwrite=True)
        assert f"{out}: would be written over an input; choose another --out" in reconstruct(config)[0].error
    mask.rename(folder / "a_mask.png")  # where the copy of the mask would go
    config = ReconstructConfig(
        photo, checkpoint=weights, mask=folder / "a_mask.png", out=folder / "a.png", overwrite=True
    )
    assert "a_mask.png: would be written over an input" in reconstruct(config)[0].error
    (folder / "a_mask.png").rename(mask)
    Image.open(photo).save(folder / "photos" / "b.jpg")  # its repair would be b.png
    config = ReconstructConfig(
        folder / "photos", checkpoint=weights, boxes=(BOX,), out=folder / "photos", overwrite=True
    )
    assert all(result.error for result in reconstruct(config))
    (folder / "photos" / "b.jpg").unlink()
    assert snapshot(folder) == before


def test_two_photos_of_one_name_do_not_share_a_repair(folder, weights):
    Image.open(folder / "photos" / "a.png").save(folder / "photos" / "a.jpg")
    results = reconstruct(ReconstructConfig(folder / "photos", checkpoint=weights, boxes=(BOX,)))
    assert sum(result.error is not None for result in results) == 1
    assert "a.png: its repair would have the name of that of a.jpg; rename one" in results[1].error


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"0 kinds of mask are given, one is needed; use one of --mask, --mask-colour, --mask-alpha, --boxes"),
        ({"mask_alpha": True, "boxes": (BOX,)}, "2 kinds of mask are given"),
    ],
)
def test_exactly_one_kind_of_mask_is_needed(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        ReconstructConfig(tmp_path / "a.png", **given)


def test_an_output_that_cannot_be_is_refused(folder, weights):
    def run(photo, out):
        return reconstruct(ReconstructConfig(photo, checkpoint=weights, boxes=(BOX,), out=out))

    with pytest.raises(ValueError, match=r"one\.png is a file, but several files go there; name a folder"):
        run(folder / "photos", folder / "one.png")
    (folder / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"file is a file"):
        run(folder / "photos" / "a.png", folder / "file")
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty holds no photo; put images or \.npy arrays into it"):
        run(folder / "empty", None)
    assert run(folder / "gone.png", None)[0].error == f"{folder / 'gone.png'}: there is no such file; check the path"


def test_the_side_by_side_shows_photo_hole_and_repair():
    photo, repaired = draw_images([0, 1], (40, 52))
    sheet = side_by_side(photo, HOLE, repaired)
    assert np.array_equal(sheet[:, :52], photo)
    assert np.array_equal(sheet[:, -52:], repaired)
    middle = sheet[:, (sheet.shape[1] - 52) // 2 :][:, :52]
    assert (middle[HOLE] == 128).all()
    assert np.array_equal(middle[~HOLE], photo[~HOLE])
    assert side_by_side(*(np.repeat(x, 60, axis=0) for x in (photo, HOLE, repaired))).shape[0] == 1024


def test_the_bundled_model_is_the_default(folder, weights, monkeypatch):
    monkeypatch.setattr("maelib.repair.files.bundled_checkpoint", lambda: weights)
    (result,) = reconstruct(ReconstructConfig(folder / "photos" / "a.png", boxes=(BOX,)))
    assert result.error is None
    with pytest.raises(FileNotFoundError):
        reconstruct(ReconstructConfig(folder / "photos" / "a.png", checkpoint=folder / "gone", boxes=(BOX,)))
