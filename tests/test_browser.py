"""The lessons' widgets in JupyterLab, moved by mouse and keyboard in a real browser."""

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
import pytest

ROOT = Path(__file__).parents[1]
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 180_000  # milliseconds; a run that hangs, not one that is slow
PATIENCE_WITH_ALL_CELLS = 1_200_000
# Cells far off the screen are otherwise left out of the page.
ALL_CELLS_IN_THE_PAGE = '{"windowingMode": "none"}'
EXPLORER = """\
import torch

from maelib.plots import show_images
from maelib.course.widgets import Explorer

Explorer(lambda level: show_images([torch.full((1, 3, 8, 8), level)]), level=(0.0, 1.0, 0.1))
"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, Path]]:
    """A JupyterLab of our own: its address, the token to enter with, and the folder that it serves."""
    folder = tmp_path_factory.mktemp("lab")
    for name in ("root", "settings"):
        (folder / name).mkdir()
    tracker = folder / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    tracker.write_text(ALL_CELLS_IN_THE_PAGE)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(8)
    own = {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")}
    own["JUPYTERLAB_SETTINGS_DIR"] = str(folder / "settings")
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"),
        *(f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"),
        *(f"--ServerApp.root_dir={folder / 'root'}", f"--LabApp.workspaces_dir={folder / 'workspaces'}"),
    ]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env={**os.environ, **own}, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(360):
            try:
                urllib.request.urlopen(f"{address}/api?token={token}", timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.5)
        yield address, token, folder / "root"
    finally:
        server.terminate()
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def widget_cell(notebook: nbformat.NotebookNode) -> int:
    (place,) = [i for i, cell in enumerate(notebook.cells) if "widget" in cell.metadata.get("tags", [])]
    return place


def move(page: object, output: object) -> None:
    """Paint over a canvas, or push the first slider a step, as a learner would."""
    painted = output.locator("canvas")
    if painted.count():
        box = painted.bounding_box()
        page.mouse.move(box["x"] + 5, box["y"] + 5)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 5, steps=8)
        page.mouse.up()
    else:
        output.locator(".noUi-handle").first.press("ArrowRight")


def run_and_move(lab: tuple[str, str, Path], browser: object, notebook: nbformat.NotebookNode, patience: int) -> None:
    """Run all cells in JupyterLab, move a control of the widget, and see its picture change and nothing red."""
    address, token, root = lab
    name, place = f"{secrets.token_hex(4)}.ipynb", widget_cell(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, root / name)
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(patience)
    try:
        page.goto(f"{address}/lab/workspaces/{name[:-6]}/tree/{name}?token={token}")
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
        page.get_by_text("(ipykernel) | Idle").wait_for()  # running earlier would ask which kernel to start
        page.evaluate("void jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_function(
            """count => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]
                .filter(prompt => /^\\[\\d+\\]:$/.test(prompt.textContent.trim())).length == count""",
            arg=sum(cell.cell_type == "code" for cell in notebook.cells),
        )
        cell = page.locator(".jp-Notebook .jp-Cell").nth(place)
        cell.scroll_into_view_if_needed()  # what is out of sight is not laid out
        output = cell.locator(".jp-Cell-outputArea")
        picture = output.locator("img.widget-image").first
        picture.wait_for()
        picture.scroll_into_view_if_needed()
        page.wait_for_timeout(500)  # lets the page settle, so that the first change is ours
        before = picture.screenshot()
        for i in range(patience // 250):
            if i % 20 == 0:  # once more every 5 s: some steps of a slider have no picture, and say so instead
                move(page, output)
            if picture.screenshot() != before:
                break
            page.wait_for_timeout(250)
        assert picture.screenshot() != before, "the picture stays as it was"
        red = "[data-mime-type='application/vnd.jupyter.stderr'], [data-mime-type='application/vnd.jupyter.error']"
        assert page.locator(red).count() == 0
        assert page.get_by_text("Error displaying widget").count() == 0
    finally:
        page.close()


def test_an_explorer_follows_its_slider(lab: tuple[str, str, Path], browser: object) -> None:
    cells = [nbformat.v4.new_code_cell("1 + 1"), nbformat.v4.new_code_cell(EXPLORER, metadata={"tags": ["widget"]})]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    run_and_move(lab, browser, nbformat.v4.new_notebook(cells=cells, metadata=kernel), PATIENCE)


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_the_widget_of_a_lesson_follows_its_controls(lab: tuple[str, str, Path], browser: object, path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = notebook.cells[: widget_cell(notebook) + 1]
    run_and_move(lab, browser, notebook, PATIENCE)


@pytest.mark.slow
@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_the_widget_of_a_lesson_works_after_all_cells_ran(
    lab: tuple[str, str, Path], browser: object, path: Path
) -> None:
    run_and_move(lab, browser, nbformat.read(path, as_version=4), PATIENCE_WITH_ALL_CELLS)
