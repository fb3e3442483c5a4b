"""The painter: its state in Python, and its canvas in a real browser."""

import io
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from maelib.checkpoint import bundled_checkpoint
from maelib.model import MAEConfig, MaskedAutoencoder
from maelib.plots import show_images
from maelib.widgets import Explorer, PatchPainter, RepairPainter, to_png

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "00_start_here.ipynb"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def images() -> torch.Tensor:
    """`(1, 3, 32, 48)`: 4 x 6 patches of 8 px."""
    return torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> MaskedAutoencoder:
    torch.manual_seed(0)
    config = MAEConfig(img_size=32, embed_dim=32, depth=1, num_heads=2, decoder_embed_dim=32, decoder_num_heads=2)
    return MaskedAutoencoder(config).eval()


def first_hidden(*hidden: int) -> list[bool]:
    return [i in hidden for i in range(24)]


def test_a_png_holds_the_pixels(images: torch.Tensor) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(to_png(images))))
    np.testing.assert_allclose(pixels / 255, images[0].permute(1, 2, 0), atol=0.5 / 255 + 1e-6)  # 8 bits round


def test_a_painter_knows_its_grid_and_starts_with_the_mask_given(images: torch.Tensor) -> None:
    painter = PatchPainter(images, 8, torch.tensor([first_hidden(3, 5)]))
    assert (painter.rows, painter.cols) == (4, 6)
    assert painter.mask == first_hidden(3, 5)
    assert sum(PatchPainter(images, 8).mask) == 0


def test_a_mask_of_another_grid_is_refused(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="mask has 16 entries for 4 x 6 patches; use 24"):
        PatchPainter(images, 8, torch.zeros(1, 16, dtype=torch.bool))


def test_on_change_hands_over_the_mask_as_the_model_takes_it(images: torch.Tensor, model: MaskedAutoencoder) -> None:
    painter, seen = PatchPainter(images, 8), []
    painter.on_change(seen.append)
    painter.mask = first_hidden(7)
    (mask,) = seen
    assert mask.tolist() == [first_hidden(7)]
    model(images, mask)


def test_the_repair_follows_the_mask(images: torch.Tensor, model: MaskedAutoencoder) -> None:
    both = RepairPainter(images, model)
    assert both.repaired.value == to_png(images)
    both.painter.mask = first_hidden(0, 1)
    repaired = np.asarray(Image.open(io.BytesIO(both.repaired.value)))
    truth = np.asarray(Image.open(io.BytesIO(to_png(images))))
    changed = (repaired != truth).any(axis=2)
    assert changed[:8, :16].any()
    assert not changed[8:].any()
    assert not changed[:, 16:].any()
    assert "2 of 24 patches hidden" in both.caption.value


def test_hiding_everything_asks_for_a_patch_to_see(images: torch.Tensor, model: MaskedAutoencoder) -> None:
    both = RepairPainter(images, model)
    both.painter.mask = [True] * 24
    assert "show at least one" in both.caption.value
    both.painter.mask = first_hidden()
    assert "Nothing hidden" in both.caption.value


def test_the_text_form_is_the_same_in_every_run(images: torch.Tensor, model: MaskedAutoencoder) -> None:
    for make in (lambda: PatchPainter(images, 8), lambda: RepairPainter(images, model)):
        one, other = (DisplayFormatter().format(make())[0]["text/plain"] for _ in range(2))
        assert one == other
        assert "4 x 6 patches" in one
        assert "0x" not in one


def shade(level: float, inverted: bool) -> object:
    if level > 0.8:
        raise ValueError(f"level {level} is too bright; use 0.8 or less")
    return show_images([torch.full((1, 1, 8, 8), 1 - level if inverted else level)])


def test_an_explorer_draws_anew_when_a_control_moves() -> None:
    explorer = Explorer(shade, level=(0.0, 1.0, 0.1), inverted=False)
    first = explorer.picture.value
    assert Image.open(io.BytesIO(first)).format == "PNG"
    explorer.controls["inverted"].value = True
    explorer.controls["level"].value = 0.3
    assert explorer.picture.value != first
    assert repr(explorer) == "Explorer(level=0.3, inverted=True)"
    assert DisplayFormatter().format(explorer)[0]["text/plain"] == repr(explorer)


def test_a_control_may_have_any_name() -> None:
    explorer = Explorer(lambda draw: shade(draw / 10, False), draw=(0, 8))
    assert repr(explorer) == "Explorer(draw=4)"


def test_an_explorer_keeps_its_picture_and_says_what_cannot_be_drawn() -> None:
    explorer = Explorer(shade, level=(0.0, 1.0, 0.1), inverted=False)
    first = explorer.picture.value
    explorer.controls["level"].value = 0.9
    assert explorer.picture.value == first
    assert explorer.problem.value == "level 0.9 is too bright; use 0.8 or less"
    explorer.controls["level"].value = 0.2
    assert explorer.picture.value != first
    assert explorer.problem.value == ""


# ------------------------------------------------------------------------------------------------------- the browser


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """A JupyterLab of our own on the first cells of notebook 00, up to the widget; gives the notebook's address."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (last,) = [i for i, cell in enumerate(notebook.cells) if "widget" in cell.metadata.get("tags", [])]
    notebook.cells = notebook.cells[: last + 1]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    (tmp_path / "root").mkdir()
    nbformat.write(notebook, tmp_path / "root" / "painter.ipynb")

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(8)
    own = {name: str(tmp_path / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTERLAB_SETTINGS_DIR")}
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"),
        *(f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"),
        *(f"--ServerApp.root_dir={tmp_path / 'root'}", f"--LabApp.workspaces_dir={tmp_path / 'workspaces'}"),
    ]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, env={**os.environ, **own}, stdout=log, stderr=log)
    try:
        base = f"http://127.0.0.1:{port}"
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{base}/api?token={token}", timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError):
                assert server.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.5)
        yield f"{base}/lab/tree/painter.ipynb?token={token}"
    finally:
        server.terminate()
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.skipif(not bundled_checkpoint().exists(), reason="the bundled model is not there yet")
def test_painting_a_patch_in_jupyterlab_changes_the_repaired_picture(lab: str) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(120_000)
        page.goto(lab)
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
        page.get_by_text("(ipykernel) | Idle").wait_for()  # running earlier would ask which kernel to start
        page.evaluate("void jupyterapp.commands.execute('notebook:run-all-cells')")

        canvas = page.locator(".jp-OutputArea canvas").last
        canvas.wait_for()
        canvas.scroll_into_view_if_needed()
        repaired, caption = page.locator("img.widget-image").last, page.locator(".widget-label").last
        before, said = repaired.screenshot(), caption.inner_text()
        box = canvas.bounding_box()
        page.mouse.move(box["x"] + 5, box["y"] + 5)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 5, steps=8)
        page.mouse.up()
        page.wait_for_function("([label, said]) => label.innerText != said", arg=[caption.element_handle(), said])
        page.wait_for_timeout(500)  # the caption arrives just before the picture is painted
        assert repaired.screenshot() != before
        red = "[data-mime-type='application/vnd.jupyter.stderr'], [data-mime-type='application/vnd.jupyter.error']"
        assert page.locator(red).count() == 0
        assert page.get_by_text("Error displaying widget").count() == 0
        browser.close()
