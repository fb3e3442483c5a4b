"""The widget that repairs a photo of one's own: each step that its page asks for, and `maelib ui` in a real browser."""

import io
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import TINY

from maelib.cli import main
from maelib.course import photo_painter
from maelib.course.photo_painter import PhotoPainter
from maelib.data.photos import read_photo
from maelib.facades import draw_facade
from maelib.transfer.compare import random_weights
from maelib.weights.checkpoint import save_model

MODEL = random_weights(TINY, 0)
PHOTO = draw_facade(7, (96, 128)).image


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


def assert_only_the_hole_changed(photo: np.ndarray, repaired: np.ndarray, hole: np.ndarray) -> None:
    changed = (repaired != photo).any(axis=2)
    assert changed[hole].any()
    assert not changed[~hole].any()


def test_a_small_mask_repairs_the_photo_at_its_own_size_and_saving_overwrites_nothing(folder) -> None:
    page, data = Page(MODEL), sideways(folder / "house.jpg").read_bytes()
    page.ask("upload", data[:999], name="../house.jpg", first=True, last=False)
    shown, preview = page.ask("upload", data[999:], name="../house.jpg", first=False, last=True)["photo"]
    assert shown == {"name": "house.jpg", "width": 128, "height": 96}
    assert Image.open(io.BytesIO(preview)).size == (64, 48)
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
