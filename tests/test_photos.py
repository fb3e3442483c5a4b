import io
import struct
import zlib

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageCms

from maelib.data.photos import (
    MAX_PIXELS,
    Photo,
    PhotoError,
    as_rgb_uint8,
    mask_from_alpha,
    mask_from_boxes,
    mask_from_colour,
    open_photo,
    read_mask,
    read_photo,
    write_photo,
)

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (12, 17, 3), np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """A picture that JPEG keeps to a few grey levels."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 200 // height + 20, x * 200 // width + 30, (x + y) * 90 // (height + width) + 80], -1).astype(
        np.uint8
    )


# ---------------------------------------------------------------------------------------------- arrays


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(5, 9), st.integers(5, 9), st.sampled_from([1, 3, 4]))),
    st.booleans(),
    st.sampled_from(["uint8", "unit", "byte"]),
)
def test_every_layout_and_range_of_an_array_is_the_same_photo(photo, channels_first, values):
    array = np.moveaxis(photo, 2, 0) if channels_first else photo
    if values == "unit":
        array = array / 255
    elif values == "byte" and photo.max() > 1:
        array = array.astype(np.float32)
    expected = photo[..., :3] if photo.shape[2] > 1 else np.concatenate([photo] * 3, axis=2)
    assert np.array_equal(as_rgb_uint8(array, "x"), expected)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(12, np.uint8), r"x\.npy: an array of shape \(12,\) is no photo; save one photo a file"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"shape \(2, 8, 8, 3\) is no photo"),
        (np.zeros((8, 8, 5), np.uint8), r"shape \(8, 8, 5\) is no photo.*1, 3 or 4 channels"),
        (np.zeros((0, 8, 3), np.uint8), r"shape \(0, 8, 3\) is no photo"),
        (np.full((8, 8, 3), np.nan), r"x\.npy: values run from nan to nan.*not finite"),
        (np.full((8, 8, 3), np.inf), r"from inf to inf"),
        (np.full((8, 8, 3), -0.5), r"from -0.5 to -0.5, which is neither 0\.\.1 nor 0\.\.255; undo a normalisation"),
        (np.full((8, 8, 3), 256.0), r"from 256 to 256"),
        (np.zeros((8, 8, 3), np.int64), r"values are int64; save uint8 0\.\.255, or floats"),
        (np.zeros((8, 8, 3), complex), r"values are complex128"),
    ],
)
def test_arrays_that_are_no_photo_are_refused(tmp_path, array, message):
    with pytest.raises(PhotoError, match=message):
        as_rgb_uint8(array, "x.npy")
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(PhotoError, match=message):
        read_photo(tmp_path / "x.npy")


def test_an_array_file_with_alpha_keeps_it(tmp_path):
    rgba = RNG.integers(0, 256, (6, 7, 4), np.uint8)
    np.save(tmp_path / "a.npy", rgba)
    photo = open_photo(tmp_path / "a.npy")
    assert np.array_equal(photo.pixels, rgba[..., :3])
    assert np.array_equal(photo.alpha, rgba[..., 3])


def test_pickles_and_archives_are_refused_unopened(tmp_path):
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(PhotoError, match=r"o\.npy: .*no array of plain numbers; save") as refusal:
        read_photo(tmp_path / "o.npy")
    assert "allow_pickle" not in str(refusal.value)  # no advice to run what the file holds
    with (tmp_path / "z.npy").open("wb") as file:
        np.savez(file, a=RGB)
    with pytest.raises(PhotoError, match=r"z\.npy: an archive of arrays; save one photo a file"):
        read_photo(tmp_path / "z.npy")


def test_a_header_that_promises_terabytes_claims_no_memory(tmp_path):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (10**7, 10**6, 3)})
    (tmp_path / "huge.npy").write_bytes(buffer.getvalue() + b"\0" * 64)
    with pytest.raises(PhotoError, match=r"huge\.npy"):
        read_photo(tmp_path / "huge.npy")


# ---------------------------------------------------------------------------------------------- image files


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".bmp", ".npy"])
def test_lossless_formats_give_back_what_was_written(tmp_path, suffix):
    write_photo(tmp_path / f"a{suffix}", RGB)
    assert np.array_equal(read_photo(tmp_path / f"a{suffix}"), RGB)


def test_jpeg_gives_back_nearly_what_was_written(tmp_path):
    photo = smooth(64, 80)
    write_photo(tmp_path / "a.jpg", photo)
    assert np.abs(read_photo(tmp_path / "a.jpg").astype(int) - photo).mean() < 1.5  # quality 95 on a gradient


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 12 * 17).astype(np.uint16).reshape(12, 17)
    for name in ("a.png", "a.tif"):
        Image.fromarray(ramp).save(tmp_path / name)
        photo = read_photo(tmp_path / name)
        assert np.abs(photo - ramp[..., None] / 257).max() <= 0.5, name
    Image.fromarray(ramp // 1024).save(tmp_path / "dark.png")  # a dark photo stays dark
    assert read_photo(tmp_path / "dark.png").max() == 0


def test_16_bit_colour_is_scaled_not_clipped(tmp_path):
    cv2 = pytest.importorskip("cv2")
    deep = RNG.integers(0, 65536, (12, 17, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), deep[..., ::-1])
    assert np.abs(read_photo(tmp_path / "a.png") - deep / 257).max() <= 1  # the high byte


def test_float_images_count_from_0_to_1(tmp_path):
    ramp = np.linspace(0, 1, 30, dtype=np.float32).reshape(5, 6)
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    assert np.abs(read_photo(tmp_path / "a.tif") - ramp[..., None] * 255).max() <= 0.51


OLD = pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="Pillow before 13 cannot read such a file")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", pytest.param("YCbCr", marks=OLD), "CMYK"])
def test_every_mode_shows_its_colours(tmp_path, mode):
    colour = (255, 255, 255) if mode == "1" else (200, 200, 200) if mode.startswith("L") else (200, 60, 30)
    image = Image.new("RGB", (8, 6), colour).convert(mode, palette=Image.Palette.ADAPTIVE)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    image.save(path)
    photo = read_photo(path)
    assert photo.shape == (6, 8, 3)
    assert photo.dtype == np.uint8
    assert np.abs(photo.astype(int) - colour).max() <= 2


def test_a_cmyk_jpeg_is_not_inverted(tmp_path):
    Image.new("RGB", (16, 16), (200, 60, 30)).convert("CMYK").save(tmp_path / "a.jpg")
    assert np.abs(read_photo(tmp_path / "a.jpg").astype(int) - (200, 60, 30)).max() <= 8  # JPEG and inks


def test_transparency_of_grey_and_palette_files_is_found(tmp_path):
    image = Image.fromarray(RGB).convert("P")
    image.info["transparency"] = int(np.asarray(image)[0, 0])
    image.save(tmp_path / "p.png", transparency=image.info["transparency"])
    assert open_photo(tmp_path / "p.png").alpha[0, 0] == 0
    grey = np.stack([RGB[..., 0], RGB[..., 1]], -1)
    Image.fromarray(grey, "LA").save(tmp_path / "la.png")
    assert np.array_equal(open_photo(tmp_path / "la.png").alpha, grey[..., 1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_stand_upright(tmp_path, orientation):
    turns = {2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.swapaxes(0, 1),
             6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a[::-1, ::-1].swapaxes(0, 1), 0),
             8: lambda a: np.rot90(a, 1)}  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_photo(tmp_path / "a.png"), turns.get(orientation, lambda a: a)(RGB))


def test_the_colour_profile_travels_with_the_pixels(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(RGB).save(tmp_path / "a.png", icc_profile=profile)
    write_photo(tmp_path / "b.png", open_photo(tmp_path / "a.png"))
    assert Image.open(tmp_path / "b.png").info["icc_profile"] == profile


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_animations_and_pages_are_counted_and_refused(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (0, 100, 200)]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    with pytest.raises(PhotoError, match=r"a\.\w+: holds 3 frames or pages; save the one to use as PNG or JPEG"):
        read_photo(tmp_path / f"a{suffix}")


def test_the_preview_behind_a_phone_picture_is_no_animation(tmp_path):
    first = Image.fromarray(smooth(32, 32))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[Image.new("RGB", (16, 16))])
    assert read_photo(tmp_path / "a.jpg").shape == (32, 32, 3)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp", ".gif", ".npy"])
@pytest.mark.parametrize("share", [0, 0.002, 0.1, 0.6])
def test_a_truncated_file_is_named_at_any_length(tmp_path, suffix, share):
    whole = tmp_path / f"whole{suffix}"
    noise = RNG.integers(0, 256, (64, 64, 3), np.uint8)
    np.save(whole, noise) if suffix == ".npy" else Image.fromarray(noise).save(whole)
    data = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(PhotoError, match=r"cut\.\w+: (damaged or cut short|not an image).*; (copy|save)"):
        read_photo(cut)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_anywhere_gives_a_photo_or_a_photo_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damage") / "a.png"
    suffix = data.draw(st.sampled_from(["PNG", "JPEG", "TIFF", "GIF", "WEBP"]))
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, suffix)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        photo = read_photo(path)
    except PhotoError as error:
        assert "a.png: " in str(error)  # noqa: PT017  either outcome is right
    else:
        assert photo.dtype == np.uint8


def png_of_size(width: int, height: int) -> bytes:
    """The head of a PNG of that size, and nearly nothing behind it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(20000, 10000), (16000, 10000), (60000, 60000)])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, size):
    (tmp_path / "bomb.png").write_bytes(png_of_size(*size))
    limit = MAX_PIXELS // 1_000_000
    with pytest.raises(PhotoError, match=rf"bomb\.png: .*more than the limit of {limit}.*; save a smaller copy"):
        read_photo(tmp_path / "bomb.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "notes.txt"])
def test_what_is_no_image_is_told_apart(tmp_path, name):
    (tmp_path / name).write_text("not an image")
    with pytest.raises(PhotoError, match=rf"{name}: not an image of a known format; save it as PNG or JPEG"):
        read_photo(tmp_path / name)


def test_postscript_is_refused_and_never_run(tmp_path, monkeypatch):
    Image.fromarray(RGB).save(tmp_path / "program.eps")
    path = (tmp_path / "program.eps").rename(tmp_path / "photo.png")
    monkeypatch.setattr("subprocess.Popen", lambda *args, **options: pytest.fail("a program was started"))
    with pytest.raises(PhotoError, match=r"photo.png: PostScript is a program, not pixels; export it as PNG or JPEG"):
        open_photo(path)


def test_missing_files_and_folders_are_told_apart(tmp_path):
    with pytest.raises(PhotoError, match=r"gone\.png: there is no such file; check the path"):
        read_photo(tmp_path / "gone.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(PhotoError, match=r"folder\.png: is a folder; name a file in it"):
        read_photo(tmp_path / "folder.png")


# ---------------------------------------------------------------------------------------------- masks


def test_white_and_opaque_is_hidden(tmp_path):
    grey = np.array([[0, 127, 128], [255, 0, 0]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png", (2, 3, 3)), grey > 127)
    alpha = np.array([[255, 255, 0], [255, 255, 255]], np.uint8)
    Image.fromarray(np.stack([grey, alpha], -1), "LA").save(tmp_path / "a.png")
    assert np.array_equal(read_mask(tmp_path / "a.png", (2, 3)), [[False, False, False], [True, False, False]])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((4, 6), 255), r"m\.png: the mask is 6 x 4 px \(width x height\) of bool, the photo 7 x 4 px; make a"),
        (np.zeros((4, 7)), r"m\.png: nothing is hidden; mark what to repair in white \(above 127\)"),
        (np.ones((4, 7)), r"m\.png: nothing is hidden"),
        (np.full((4, 7), 255), r"m\.png: everything is hidden; leave visible"),
    ],
)
def test_masks_that_cannot_be_meant_are_refused(tmp_path, mask, message):
    Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(PhotoError, match=message):
        read_mask(tmp_path / "m.png", (4, 7, 3))


def test_a_colour_hides_its_area_and_the_fringe_that_compression_left(tmp_path):
    photo = smooth(96, 128)
    area = np.zeros((96, 128), bool)
    area[21:60, 33:90] = True
    photo[area] = 0
    assert np.array_equal(mask_from_colour(photo, (0, 0, 0)), area)
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "JPEG", quality=80)
    hole = mask_from_colour(np.asarray(Image.open(buffer)), (0, 0, 0))
    assert (hole & area).sum() >= 0.98 * area.sum()
    assert not hole[:18].any()
    assert not hole[63:].any()


@pytest.mark.parametrize(
    ("colour", "message"),
    [
        ((0, 0, 0), r"a\.png, colour \(0, 0, 0\): nothing is hidden"),
        ((9, 9, 9), r"everything is hidden"),
        ((0, 0), r"colour \(0, 0\) is not red, green, blue"),
        ((0, 0, 256), r"from 0 to 255"),
    ],
)
def test_colours_that_hide_nothing_or_everything_are_refused(colour, message):
    with pytest.raises(PhotoError, match=message):
        mask_from_colour(np.full((8, 8, 3), 9, np.uint8), colour, name="a.png")


def test_transparent_pixels_are_hidden():
    alpha = np.array([[0, 127], [128, 255]], np.uint8)
    photo = Photo(np.zeros((2, 2, 3), np.uint8), alpha)
    assert np.array_equal(mask_from_alpha(photo), [[True, True], [False, False]])
    with pytest.raises(PhotoError, match=r"a\.jpg: has no alpha channel; give a mask, a colour or boxes"):
        mask_from_alpha(Photo(photo.pixels), "a.jpg")
    with pytest.raises(PhotoError, match=r"alpha: nothing is hidden"):
        mask_from_alpha(Photo(photo.pixels, np.full((2, 2), 255, np.uint8)))


def test_boxes_hide_their_pixels():
    hole = mask_from_boxes([(1, 0, 3, 2), (4, 3, 5, 4)], (4, 5, 3))
    assert hole.sum() == 5
    assert hole[:2, 1:3].all()
    assert hole[3, 4]


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((3, 0, 3, 2), r"box 3 0 3 2 is empty or leaves the photo; use left < right <= 5 and top < bottom <= 4"),
        ((-1, 0, 3, 2), r"box -1 0 3 2"),
        ((0, 0, 6, 2), r"box 0 0 6 2"),
        ((0, 0, 5, 4), r"everything is hidden"),
    ],
)
def test_boxes_that_cannot_be_meant_are_refused(box, message):
    with pytest.raises(PhotoError, match=message):
        mask_from_boxes([box], (4, 5, 3))


# ---------------------------------------------------------------------------------------------- writing


def test_nothing_is_overwritten_unasked(tmp_path):
    path = tmp_path / "new" / "a.png"
    write_photo(path, RGB)
    before = path.read_bytes()
    with pytest.raises(PhotoError, match=r"a\.png: exists already; choose another name, or ask to overwrite"):
        write_photo(path, 255 - RGB)
    assert path.read_bytes() == before
    write_photo(path, 255 - RGB, overwrite=True)
    assert np.array_equal(read_photo(path), 255 - RGB)
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_photo(path, RGB)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(PhotoError, match=r"a\.png: cannot be written .*No space left"):
        write_photo(path, 255 - RGB, overwrite=True)
    monkeypatch.undo()
    assert np.array_equal(read_photo(path), RGB)
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_an_unknown_suffix_is_refused_with_those_known(tmp_path):
    with pytest.raises(PhotoError, match=r"suffix '\.xyz' cannot be written; use one of \.npy, \.jpg"):
        write_photo(tmp_path / "a.xyz", RGB)


def test_alpha_is_kept_where_the_format_has_room(tmp_path):
    photo = Photo(RGB, RNG.integers(0, 256, RGB.shape[:2], np.uint8))
    for suffix in (".png", ".webp", ".tif", ".npy"):
        write_photo(tmp_path / f"a{suffix}", photo)
        back = open_photo(tmp_path / f"a{suffix}")
        assert np.array_equal(back.alpha, photo.alpha), suffix
    write_photo(tmp_path / "a.jpg", photo)
    assert open_photo(tmp_path / "a.jpg").alpha is None
