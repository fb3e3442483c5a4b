"""The widgets: their state in Python, each step that the page of a photo asks for, and `maelib ui` in a browser."""

import io
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from PIL import Image
from tiny import TINY

from maelib.cli import main
from maelib.course import photo_painter
from maelib.course.photo_painter import PhotoPainter
from maelib.course.widgets import Explorer, RepairPainter, to_png
from maelib.data.photos import read_photo
from maelib.facades import draw_facade
from maelib.plots import show_images
from maelib.transfer.compare import random_weights
from maelib.weights.checkpoint import save_model

MODEL = random_weights(TINY, 0)
PHOTO = draw_facade(7, (96, 128)).image
IMAGES = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))  # 4 x 6 patches of 8 px


def hidden(*places: int) -> list[bool]:
    return [i in places for i in range(24)]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def assert_only_the_hole_changed(photo: np.ndarray, repaired: np.ndarray, hole: np.ndarray) -> None:
    changed = (repaired != photo).any(axis=2)
    assert changed[hole].any()
    assert not changed[~hole].any()


def test_a_png_holds_the_pixels() -> None:
    np.testing.assert_allclose(pixels(to_png(IMAGES)) / 255, IMAGES[0].permute(1, 2, 0), atol=0.5 / 255 + 1e-6)  # 8 bit


def test_the_repair_follows_the_mask() -> None:
    with pytest.raises(RuntimeError, match="16"):
        RepairPainter(IMAGES, MODEL, torch.zeros(1, 16, dtype=torch.bool))
    both = RepairPainter(IMAGES, MODEL, torch.tensor([hidden(3, 5)]))
    assert (both.painter.rows, both.painter.cols, both.painter.mask) == (4, 6, hidden(3, 5))
    assert repr(both).startswith("RepairPainter(4 x 6 patches): 2 of 24 patches hidden, PSNR")
    both.painter.mask = hidden()
    assert both.repaired.value == to_png(IMAGES)
    assert "Nothing is hidden" in both.caption.value
    both.painter.mask = hidden(0, 1)
    hole = np.zeros((32, 48), bool)
    hole[:8, :16] = True
    assert_only_the_hole_changed(pixels(to_png(IMAGES)), pixels(both.repaired.value), hole)
    assert "2 of 24 patches hidden" in both.caption.value
    both.painter.mask = [True] * 24
    assert "show at least one" in both.caption.value


def shade(level: float, inverted: bool) -> object:
    if level > 0.8:
        raise ValueError(f"level {level} is too bright; use 0.8 or less")
    return show_images([torch.full((1, 1, 8, 8), 1 - level if inverted else level)])


def test_an_explorer_draws_again_when_a_control_moves_and_says_what_cannot_be_drawn() -> None:
    explorer = Explorer(shade, level=(0.0, 1.0, 0.1), inverted=False)
    first = explorer.picture.value
    explorer.controls["inverted"].value = True
    explorer.controls["level"].value = 0.3
    second = explorer.picture.value
    assert pixels(second).shape == pixels(first).shape
    assert second != first
    assert DisplayFormatter().format(explorer)[0]["text/plain"] == "Explorer(level=0.3, inverted=True)"
    explorer.controls["level"].value = 0.9
    assert explorer.picture.value == second
    assert explorer.problem.value == "level 0.9 is too bright; use 0.8 or less"
    explorer.controls["level"].value = 0.2
    assert explorer.picture.value != second
    assert explorer.problem.value == ""


def test_a_control_may_have_any_name() -> None:
    assert repr(Explorer(lambda draw: shade(draw / 10, False), draw=(0, 8))) == "Explorer(draw=4)"


# ----------------------------------------------------------------------------------------------- a photo of one's own


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`data/photos` of a repository, where repairs of uploaded photos go; pictures to paint on are small."""
    (tmp_path / "photos").mkdir()
    for module in ("maelib.course", "maelib.course.photo_painter"):
        monkeypatch.setattr(f"{module}.data_folder", lambda: tmp_path)
    monkeypatch.setattr(photo_painter, "SIDE", 64)
    return tmp_path / "photos"


class Page(PhotoPainter):
    """A painter whose front end is the test: `ask` for a step, and get the answers by their kinds, with their bytes."""

    def send(self, content: dict, buffers: list[bytes] = ()) -> None:
        self.answers[content.pop("kind")] = (content, *buffers)

    def ask(self, step: str, *parts: bytes, **options: object) -> dict[str, tuple]:
        self.answers = {}
        self.receive(self, {"do": step, **options}, parts)
        self.answers.pop("ready")
        return self.answers


def sideways(path: Path) -> Path:
    """`PHOTO` as a phone saves it that was held upright: turned, with the turn in its EXIF data."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PHOTO).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=95)
    return path


def painted(*box: int) -> bytes:
    file, mask = io.BytesIO(), Image.new("RGBA", (64, 48))
    mask.paste((0, 114, 178, 255), box)
    mask.save(file, "png")
    return file.getvalue()


def test_a_small_mask_repairs_the_photo_at_its_own_size_and_saving_overwrites_nothing(folder) -> None:
    page, data = Page(MODEL), sideways(folder / "house.jpg").read_bytes()
    page.ask("upload", data[:999], name="../house.jpg", first=True, last=False)
    shown, preview = page.ask("upload", data[999:], name="../house.jpg", first=False, last=True)["photo"]
    assert shown == {"name": "house.jpg", "width": 128, "height": 96}
    assert pixels(preview).shape[:2] == (48, 64)
    page.ask("paint", painted(20, 12, 30, 24))
    assert list(page.ask("repair", detail=0.5)) == ["progress", "repaired"]
    hole = np.zeros((96, 128), bool)
    hole[24:48, 40:60] = True
    for _ in range(2):
        assert page.ask("save")["saved"][0]["names"] == ["house_repaired.png", "house_mask.png"]
    np.testing.assert_array_equal(read_photo(folder / "house_mask.png")[..., 0] > 127, hole)
    assert_only_the_hole_changed(read_photo(folder / "house.jpg"), read_photo(folder / "house_repaired.png"), hole)
    assert page.ask("download", which=1)["file"][1] == (folder / "house_mask.png").read_bytes()
    assert list(page.ask("show")) == ["listed", "photo", "mask", "repaired", "saved"]
    page.ask("repair", detail=0)
    assert page.ask("save")["saved"][0]["names"] == ["house_2_repaired.png", "house_2_mask.png"]
    assert page.ask("show")["listed"] == ({"names": ["house.jpg"]},)
    assert (folder / "house.jpg").read_bytes() == data


def test_what_cannot_be_done_says_why_and_nothing_is_lost(folder, monkeypatch) -> None:
    assert repr(Page(MODEL)) == "PhotoPainter(no photo yet)"
    page = Page(MODEL, PHOTO)
    page.ask("paint", painted(0, 0, 0, 0))
    assert "nothing is hidden" in page.ask("repair", detail=0)["problem"][0]["text"]
    problem = page.ask("upload", name="notes.txt", first=True, last=True)["problem"][0]["text"]
    assert problem == "notes.txt: not an image of a known format; save it as PNG or JPEG"
    assert "cannot be opened" in page.ask("choose", name="gone.jpg")["problem"][0]["text"]
    monkeypatch.setattr(photo_painter, "fill_hole", lambda *_: np.zeros(1 << 50))
    page.ask("paint", painted(20, 12, 30, 24))
    page.ask("repair", detail=0)
    assert "no memory was left" in page.ask("save")["problem"][0]["text"]
    assert list(page.ask("show")) == ["listed", "photo", "mask", "repaired"]
    assert repr(page) == "PhotoPainter('facade', 128 x 96 px)"


@pytest.fixture
def address(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of `maelib ui`, which the test has to end."""
    save_model(folder.parent / "model.safetensors", MODEL, {})
    opened, addresses = threading.Event(), []
    monkeypatch.setattr("webbrowser.open", lambda address: addresses.append(address) or opened.set())
    command = ["ui", "--checkpoint", str(folder.parent / "model.safetensors")]
    server = threading.Thread(target=main, args=[command], daemon=True)
    server.start()
    assert opened.wait(60)
    yield addresses[0]
    server.join(30)
    assert not server.is_alive()


def test_a_photo_is_repaired_in_the_browser_by_keyboard_alone(browser, address, folder, tmp_path) -> None:
    tab, bare = browser.new_page(), address.partition("?")[0]
    assert [tab.request.get(bare + path).status for path in ("", "photo_page.js", "socket", "?token=x")] == [403] * 4
    assert tab.request.get(address, headers={"Host": "attacker.example"}).status == 404
    tab.goto(address)
    tab.locator("input[type=file]").set_input_files(sideways(tmp_path / "house.jpg"))
    tab.get_by_text("house.jpg, 128 x 96 px").wait_for()
    tab.locator("canvas").focus()
    tab.keyboard.down(" ")
    for _ in range(8):
        tab.keyboard.press("ArrowRight")
    tab.keyboard.up(" ")
    tab.get_by_text("% of the photo is painted").wait_for()
    for name in ("Clear", "Undo", "Repair"):
        tab.get_by_role("button", name=name, exact=True).press("Enter")
    tab.get_by_text("Repaired.").wait_for()
    tab.get_by_role("slider", name="Share of the picture").press("End")
    assert tab.locator(".after").evaluate("node => node.style.clipPath") == "inset(0px 0px 0px 100%)"
    tab.reload()
    tab.get_by_role("button", name="Save").press("Enter")
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Download the repair").press("Enter")
    repaired = read_photo(download.value.path())
    tab.get_by_role("button", name="Done").press("Enter")
    tab.get_by_text("maelib ui has ended").wait_for()
    tab.close()
    hole = read_photo(folder / "house_mask.png")[..., 0] > 127
    assert hole[48, 64:70].all()
    assert_only_the_hole_changed(read_photo(tmp_path / "house.jpg"), repaired, hole)
