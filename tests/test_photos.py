import contextlib
import io
import os
import re
import struct
import warnings

import numpy as np
import pytest
from fuzz import fault
from fuzz_targets import TARGETS
from hypothesis import given, settings
from PIL import Image, ImageCms, ImageDraw

from maelib.data import photos
from maelib.data.photos import Photo, PhotoError, fill_hole, open_photo, read_mask, read_photo, write_photo

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (12, 17, 3), np.uint8)
DEEP = RNG.integers(256, 65536, (12, 17)).astype(np.uint16)
REAL = RNG.random((12, 17), np.float32)
HOLE = np.zeros((12, 17), bool)
HOLE[3:8, 4:11] = True
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
DATE = "2020:01:02 03:04:05"


def smooth(height: int, width: int) -> np.ndarray:
    """A picture that JPEG keeps to a few grey levels."""
    y, x = np.mgrid[:height, :width]
    planes = [y * 200 // height + 20, x * 200 // width + 30, (x + y) * 90 // (height + width) + 80]
    return np.stack(planes, -1).astype(np.uint8)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def save(path, values: np.ndarray) -> None:
    np.save(path, values) if path.suffix == ".npy" else Image.fromarray(values).save(path, lossless=True)


def exif(tags: dict) -> bytes:
    data = Image.Exif()
    data.update(tags)
    return data.tobytes()


def repaired(photo: Photo) -> np.ndarray:
    """Its pixels with a hole that shows something else, grey where the photo is grey."""
    return np.where(HOLE[..., None], 255 - photo.pixels, photo.pixels)


# ---------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("layout", ["hw", "hw1", "hw3", "hw4", "1hw", "3hw", "4hw"])
@pytest.mark.parametrize(
    ("kind", "white"), [("u1", 255), ("u2", 65535), ("f2", 1), ("f4", 255), ("f8", 1), (">f4", 255)], ids=str
)
def test_an_array_of_any_layout_type_and_range_is_the_same_photo_and_comes_back(tmp_path, layout, kind, white):
    photo = RNG.integers(0, 256, (12, 17, int(layout.strip("hw") or 1)), np.uint8)
    array = (photo * (white / 255)).astype(kind)
    array = array[..., 0] if layout == "hw" else np.moveaxis(array, 2, 0) if layout.endswith("hw") else array
    np.save(tmp_path / "a.npy", array)
    read = open_photo(tmp_path / "a.npy")
    assert np.array_equal(read.pixels, photo[..., :3] if photo.shape[2] > 1 else np.repeat(photo, 3, axis=2))
    assert np.array_equal(read.alpha, photo[..., 3]) if photo.shape[2] == 4 else read.alpha is None
    write_photo(tmp_path / "b.npy", fill_hole(read, repaired(read), HOLE))
    back = np.load(tmp_path / "b.npy")
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    where = HOLE[..., None] if layout.startswith("hw") and layout != "hw" else HOLE
    assert np.array_equal(np.where(where, 0, back), np.where(where, 0, array))
    assert np.array_equal(read_photo(tmp_path / "b.npy"), repaired(read))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(12, np.uint8), r"shape \(12,\).*one photo a file"),
        (np.zeros((8, 8, 5), np.uint8), r"shape \(8, 8, 5\).*1, 3 or 4 channels"),
        (np.full((8, 8, 3), np.nan), "from nan to nan.*not finite"),
        (np.full((8, 8, 3), -0.5), r"float64 from -0.5 to -0.5.*floats 0\.\.1 or 0\.\.255: undo a normalisation"),
        (np.full((8, 8), 255, np.uint16), "uint16 from 255 to 255; save uint8"),
        (np.zeros((8, 8, 3), np.int64), "int64 from 0 to 0; save uint8"),
        (np.broadcast_to(np.uint8(0), (20_000, 10_000, 3)), "limit of 150 megapixels; save a smaller copy"),
    ],
)
def test_arrays_that_are_not_photos_are_refused(array, words):
    with pytest.raises(PhotoError, match=rf"x\.npy: .*{words}"):
        photos.photo_from_array(array, "x.npy")


def test_pickles_and_headers_that_lie_are_refused_unopened(tmp_path):
    np.save(tmp_path / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with (tmp_path / "terabytes.npy").open("wb") as file:
        head = {"descr": "|u1", "fortran_order": False, "shape": (10**7, 10**6, 3)}
        np.lib.format.write_array_header_1_0(file, head)
    for name in ("pickle", "terabytes"):
        with pytest.raises(PhotoError, match=rf"{name}\.npy: .*not one array of plain numbers; save") as refusal:
            read_photo(tmp_path / f"{name}.npy")
        assert "allow_pickle" not in str(refusal.value)  # no advice to run what the file holds


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("values", [DEEP, DEEP // 64])  # a dark photo stays dark
def test_16_bits_are_scaled_not_clipped(tmp_path, name, values):
    save(tmp_path / name, values)
    assert np.abs(read_photo(tmp_path / name) - values[..., None] / 257).max() <= 0.5


def test_16_bit_colours_and_inks_become_8_bit_colours_and_their_loss_is_warned_of(tmp_path):
    cv2 = pytest.importorskip("cv2")
    deep = RNG.integers(0, 65536, (12, 17, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep[..., ::-1])
    Image.new("RGB", (8, 6), (200, 60, 30)).convert("CMYK").save(tmp_path / "inks.tif")
    for name, colours, lost in (("deep.png", deep / 257, "16 bits"), ("inks.tif", [200, 60, 30], r"CMYK.* to sRGB")):
        photo = open_photo(tmp_path / name)
        assert np.abs(photo.pixels - np.array(colours)).max() <= 1  # of 16 bits the high byte
        with pytest.warns(UserWarning, match=rf"b\.png: .*{lost}"):
            write_photo(tmp_path / "b.png", photo)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_one_colour_may_be_transparent(tmp_path, mode):
    image = Image.fromarray(RGB).convert(mode)
    image.save(tmp_path / "a.png", transparency=int(np.asarray(image)[0, 0]))
    photo = open_photo(tmp_path / "a.png")
    assert np.array_equal(photo.pixels, np.asarray(image.convert("RGB")))
    assert np.array_equal(photo.alpha == 0, np.asarray(image) == np.asarray(image)[0, 0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_stand_upright_and_are_written_so(tmp_path, orientation):
    turned = (RGB, RGB[:, ::-1], RGB[::-1, ::-1], RGB[::-1], RGB.swapaxes(0, 1), np.rot90(RGB, -1),
              RGB[::-1, ::-1].swapaxes(0, 1), np.rot90(RGB))  # fmt: skip
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif({0x0112: orientation}))
    photo = open_photo(tmp_path / "a.png")
    assert np.array_equal(photo.pixels, turned[orientation - 1])
    write_photo(tmp_path / "b.png", photo)
    assert np.array_equal(read_photo(tmp_path / "b.png"), photo.pixels)
    assert Image.open(tmp_path / "b.png").getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_animations_and_pages_are_counted_and_refused(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (0, 100, 200)]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(PhotoError, match=r"a\.\w+: holds 3 frames or pages; save the one to use"):
        read_photo(tmp_path / f"a{suffix}")
    frames[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=frames[1:])
    assert read_photo(tmp_path / "a.jpg").shape == (8, 8, 3)  # a phone puts previews behind its one picture


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp", ".gif", ".npy"])
@pytest.mark.parametrize("share", [0, 0.002, 0.1, 0.6])
def test_a_truncated_file_is_named_at_any_length(tmp_path, suffix, share):
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    save(whole, RNG.integers(0, 256, (64, 64, 3), np.uint8))
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    with pytest.raises(PhotoError, match=r"cut\.\w+: (damaged|not an image).*; (copy|save)"):
        read_photo(cut)


@settings(max_examples=200, deadline=None)
@given(TARGETS["image"].inputs)
def test_damage_anywhere_gives_a_photo_or_a_photo_error(tmp_path_factory, data):
    assert fault(TARGETS["image"], data, tmp_path_factory.mktemp("damage")) is None


@pytest.mark.parametrize("size", [(16000, 10000), (60000, 60000)])  # beyond our limit, and beyond Pillow's too
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, size):
    small = encode(Image.fromarray(RGB), "BMP")
    (tmp_path / "bomb.bmp").write_bytes(small[:18] + struct.pack("<ii", *size) + small[26:])
    with pytest.raises(PhotoError, match=r"bomb\.bmp: .*more than the limit of 150 megapixels; save a smaller copy"):
        read_photo(tmp_path / "bomb.bmp")


def test_what_is_not_an_image_is_told_apart_and_postscript_is_never_run(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", lambda *args, **options: pytest.fail("a program was started"))
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "program.jpg").write_bytes(encode(Image.fromarray(RGB), "EPS"))
    unknown, missing = "not an image of a known format; save it as PNG or JPEG", "cannot be opened .*; check the path"
    for name, words in {"text.png": unknown, "program.jpg": unknown, "gone.png": missing}.items():
        with pytest.raises(PhotoError, match=f"{name}: {words}"):
            read_photo(tmp_path / name)


def test_a_folder_lists_its_photos_and_warns_of_what_it_leaves_aside(tmp_path):
    latin = b"fa\xe7ade.png"  # a name that is not UTF-8
    for name in (b"b.PNG", b"a.jfif", b"c.webp", b"._IMG.jpg", b".DS_Store", b"d.heic", b"e.HEIC", b"README.md", latin):
        open(os.path.join(os.fsencode(tmp_path), name), "wb").close()
    (tmp_path / "folder.png").mkdir()
    with pytest.warns(UserWarning, match=r"2 files of other kinds were left aside: \.heic"):
        found = photos.list_photos(tmp_path)
    assert [path.name for path in found] == ["a.jfif", "b.PNG", "c.webp", os.fsdecode(latin)]
    assert photos.list_photos(tmp_path / "folder.png") == []
    with pytest.raises(FileNotFoundError, match=r"folder .*gone does not exist; give one"):
        photos.list_photos(tmp_path / "gone")


# ---------------------------------------------------------------------------------------------- masks


def test_white_and_opaque_is_hidden(tmp_path):
    grey, alpha = np.zeros((4, 5), np.uint8), np.full((4, 5), 255, np.uint8)
    grey[1, :4], alpha[1, 3] = (127, 128, 255, 255), 0
    save(tmp_path / "m.png", grey)
    assert np.array_equal(read_mask(tmp_path / "m.png", (4, 5, 3)), grey > 127)
    save(tmp_path / "a.png", np.dstack([grey, alpha]))
    assert np.array_equal(read_mask(tmp_path / "a.png", (4, 5)), (grey > 127) & (alpha > 0))


def test_masks_with_soft_and_compressed_edges_are_taken(tmp_path):
    wires = Image.new("L", (640, 480))
    for x in range(0, 640, 40):
        ImageDraw.Draw(wires).line((x, 0, x + 100, 480), fill=255, width=12)
    wires.resize((160, 480)).resize((640, 480)).save(tmp_path / "m.jpg", quality=60)
    assert np.array_equal(read_mask(tmp_path / "m.jpg", (480, 640)), np.asarray(Image.open(tmp_path / "m.jpg")) > 127)


@pytest.mark.parametrize("kind", ["colour", "grey", "erased"])
def test_a_photo_is_not_taken_for_a_mask(tmp_path, kind):
    photo = Image.fromarray(smooth(40, 50)).convert("L" if kind == "grey" else "RGB")
    if kind == "erased":  # the hole is where the photo is transparent
        photo.putalpha(Image.fromarray(np.pad(np.zeros((20, 20), np.uint8), 10, constant_values=255)).resize((50, 40)))
    photo.save(tmp_path / "m.png")
    with pytest.raises(PhotoError, match=r"m\.png: not a black and white picture.*paint .* white .*--mask-alpha"):
        read_mask(tmp_path / "m.png", (40, 50))


def test_masks_that_cannot_be_meant_are_refused(tmp_path):
    white = np.full((4, 7), 255, np.uint8)
    for mask, words in (
        (white[:, :6], r"the mask is bool of height and width \(4, 6\), the photo of \(4, 7\); make"),
        (white // 255, r"nothing is hidden; mark what to repair .*white: above 127"),
        (white, "everything is hidden; mark what to repair and no more"),
    ):
        save(tmp_path / "m.png", mask)
        with pytest.raises(PhotoError, match=rf"m\.png: .*{words}"):
            read_mask(tmp_path / "m.png", (4, 7, 3))


def test_a_colour_hides_its_area_and_the_fringe_that_compression_left():
    photo, area, alpha = smooth(96, 128), np.zeros((96, 128), bool), np.full((96, 128), 255, np.uint8)
    area[21:60, 33:90] = True
    photo[area], alpha[:40] = 0, 0
    assert np.array_equal(photos.mask_from_colour(Photo(photo), (0, 0, 0)), area)
    assert np.array_equal(photos.mask_from_colour(Photo(photo, alpha), (0, 0, 0)), area & (alpha > 0))  # unseen
    compressed = np.asarray(Image.open(io.BytesIO(encode(Image.fromarray(photo), "JPEG", quality=80))))
    hole = photos.mask_from_colour(Photo(compressed), (0, 0, 0))
    assert (hole & area).sum() >= 0.98 * area.sum()
    assert not hole[np.r_[:18, 63:96]].any()
    for colour, words in {(0, 0, 0): "nothing is hidden", (0, 0, 256): "leaves 0 to 255"}.items():
        with pytest.raises(PhotoError, match=f"a.png.*{re.escape(str(colour))}.*{words}"):
            photos.mask_from_colour(Photo(np.full((8, 8, 3), 9, np.uint8)), colour, name="a.png")


def test_boxes_hide_their_pixels():
    hole = photos.mask_from_boxes([(1, 0, 3, 2), (4, 3, 5, 4)], (4, 5, 3))
    assert np.argwhere(hole).tolist() == [[0, 1], [0, 2], [1, 1], [1, 2], [3, 4]]
    for box in ("3 0 3 2", "-1 0 3 2", "0 0 6 2", "0 -1 2 2", "0 2 2 5"):
        with pytest.raises(PhotoError, match=f"box {box} .*; use left < right <= 5 and top < bottom <= 4"):
            photos.mask_from_boxes([tuple(map(int, box.split()))], (4, 5, 3))


# ---------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(
    ("values", "suffixes"),
    [(RGB[..., 0], ".png .tif .bmp"), (DEEP, ".png .tif"), (REAL, ".tif"), (RGB, ".png .tif .bmp .webp")],
)
def test_outside_the_hole_a_file_keeps_every_value_in_its_own_type(tmp_path, values, suffixes):
    for suffix in suffixes.split():
        source, out = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
        save(source, values)
        photo = open_photo(source)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            write_photo(out, fill_hole(photo, repaired(photo), HOLE))
        written = np.asarray(Image.open(out))
        assert written.dtype == values.dtype, suffix
        assert np.array_equal(written[~HOLE], values[~HOLE]), suffix
        assert np.array_equal(read_photo(out), repaired(photo)), suffix


@pytest.mark.parametrize("mode", ["P", "L", "LA", "RGB", "RGBA"])
def test_the_colour_profile_stays_with_the_colours(tmp_path, mode):
    image = Image.fromarray(RGB).convert(mode, palette=Image.Palette.ADAPTIVE)
    image.save(tmp_path / "a.png", icc_profile=SRGB)
    write_photo(tmp_path / "b.png", open_photo(tmp_path / "a.png"))
    back = Image.open(tmp_path / "b.png")
    assert back.info["icc_profile"] == SRGB
    assert back.mode == {"P": "RGB"}.get(mode, mode)
    assert np.array_equal(np.asarray(back.convert("RGBA")), np.asarray(image.convert("RGBA")))


@pytest.mark.parametrize("source", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("out", [".jfif", ".png", ".tif", ".webp"])
def test_date_and_resolution_are_kept(tmp_path, source, out):
    tags = exif({0x0132: DATE, 0x8769: {0x9003: DATE}})
    Image.fromarray(RGB).save(tmp_path / f"a{source}", exif=tags, dpi=(600, 300))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore" if out == ".webp" else "error")
        write_photo(tmp_path / f"b{out}", open_photo(tmp_path / f"a{source}"))
    back = Image.open(tmp_path / f"b{out}")
    assert back.getexif()[0x0132] == back.getexif().get_ifd(0x8769)[0x9003] == DATE
    if ".webp" not in (source, out):
        assert back.info["dpi"] == pytest.approx((600, 300), abs=0.01)  # PNG counts pixels a metre


@pytest.mark.parametrize("out", [".jpg", ".png", ".webp"])
def test_xmp_data_is_kept_and_warned_of_where_a_jpeg_has_no_room_for_it(tmp_path, out):
    for length in (40, 70_000):
        Image.fromarray(RGB).save(tmp_path / "a.webp", xmp=b"<x/>".ljust(length))
        fits = out != ".jpg" or length == 40
        with contextlib.nullcontext() if fits else pytest.warns(UserWarning, match="without the photo's XMP data"):
            write_photo(tmp_path / f"b{out}", open_photo(tmp_path / "a.webp"))
        assert len(Image.open(tmp_path / f"b{out}").info.get("xmp", b"")) == length * fits


def test_what_a_format_cannot_hold_is_warned_of(tmp_path):
    Image.fromarray(DEEP).save(tmp_path / "a.tif", exif=exif({0x0132: DATE}), dpi=(600, 600), icc_profile=SRGB)
    photo = open_photo(tmp_path / "a.tif")
    for suffix, words in {
        ".bmp": "colour profile, EXIF data, uint16 values",
        ".npy": "colour profile, EXIF data, resolution",
        ".webp": "resolution, uint16 values",
    }.items():
        with pytest.warns(UserWarning, match=rf"b{suffix}: written without the photo's {words}"):
            write_photo(tmp_path / f"b{suffix}", photo)
        assert np.array_equal(read_photo(tmp_path / f"b{suffix}"), photo.pixels)


def test_alpha_is_kept_where_the_format_has_room_and_refused_where_it_has_none(tmp_path):
    photo = Photo(RGB, RNG.integers(0, 256, RGB.shape[:2], np.uint8))
    for suffix in (".png", ".webp", ".tif", ".npy"):
        write_photo(tmp_path / f"a{suffix}", photo)
        back = open_photo(tmp_path / f"a{suffix}")
        assert np.array_equal(back.alpha, photo.alpha), suffix
        assert np.array_equal(back.pixels, RGB), suffix  # what is transparent too
    for suffix in (".jpg", ".bmp"):
        with pytest.raises(PhotoError, match=rf"a{suffix}: {suffix} cannot hold what is transparent.*use \.png"):
            write_photo(tmp_path / f"a{suffix}", photo)
        write_photo(tmp_path / f"b{suffix}", Photo(RGB, np.full(RGB.shape[:2], 255, np.uint8)))
