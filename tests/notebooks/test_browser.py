"""The lessons in JupyterLab: widgets moved by mouse and keyboard in a real browser, and what a screen reader gets."""

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
import pytest
from conftest import stub_environment
from PIL import Image

from maelib.facades import draw_facade

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RUN_ALL = "void jupyterapp.commands.execute('notebook:run-all-cells')"
pytestmark = pytest.mark.needs("make")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, Path]]:
    """`make lab` in an environment of stubs: its address, the token to enter with, and the folder that it serves."""
    folder = tmp_path_factory.mktemp("lab")
    settings = folder / "config" / "lab" / "user-settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')  # or far cells are left out
    (folder / "root").mkdir()
    stub_environment(folder, jupyter=f'shift; exec {sys.executable} -m jupyterlab "$@"')
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(8)
    own = {"JUPYTER_CONFIG_DIR": f"{folder}/config", "JUPYTER_DATA_DIR": f"{folder}/data", "MAKEFLAGS": ""}
    environment = os.environ | own
    options = f"--port={port} --IdentityProvider.token={token} --ServerApp.root_dir={folder / 'root'}"
    options += " --no-browser --expose-app-in-browser"
    command = ["make", "lab", f"VENV={folder}", f"LAB_ARGS={options}"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(360):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5).close()
                break
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}", token, folder / "root"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)


def move(page: object, output: object, row: int = 0) -> None:
    """Paint a stroke across a canvas, or push the first slider a step, as a learner would.

    The same stroke again would take the first one back, so each has a `row` of its own.
    """
    painted = output.locator("canvas")
    if painted.count():
        box = painted.bounding_box()
        y = box["y"] + 5 + 24 * row
        page.mouse.move(box["x"] + 5, y)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.4, y, steps=8)
        page.mouse.up()
    else:
        output.locator(".noUi-handle").first.press("ArrowRight")


@contextlib.contextmanager
def opened(lab: tuple[str, str, Path], browser: object, notebook: nbformat.NotebookNode, name: str) -> Iterator[object]:
    """The page of a notebook in JupyterLab, once its kernel is ready."""
    address, token, root = lab
    nbformat.write(notebook, root / f"{name}.ipynb")
    with contextlib.closing(browser.new_page(viewport={"width": 1400, "height": 1000})) as page:
        page.set_default_timeout(1_200_000)  # milliseconds
        page.goto(f"{address}/lab/workspaces/{name}/tree/{name}.ipynb?token={token}")
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
        page.get_by_text("(ipykernel) | Idle").wait_for()  # earlier it would ask which kernel to start
        yield page
        sessions = f"{address}/api/sessions"
        for session in page.request.get(f"{sessions}?token={token}").json():  # ten kernels fill the memory
            assert page.request.delete(f"{sessions}/{session['id']}?token={token}").status == 204


@pytest.mark.slow
def test_a_figure_has_a_caption_under_it_and_the_same_words_for_a_screen_reader(lab, browser) -> None:
    """In a notebook as it is saved, which JupyterLab does not trust: it cleans the HTML before it shows it."""
    notebook = nbformat.read(LESSONS[1], as_version=4)
    outputs = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    with opened(lab, browser, notebook, "saved") as page:
        shown = [data for data in outputs if "text/html" in data]
        for data in shown:
            image = page.get_by_role("img", name=data["text/plain"], exact=True)
            caption = page.locator("figcaption", has_text=data["text/plain"])
            image.scroll_into_view_if_needed()
            above, below = image.bounding_box(), caption.bounding_box()
            assert above["width"] > 100
            assert above["y"] + above["height"] <= below["y"]
    assert len(shown) > 3


@pytest.mark.slow
@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_the_widgets_of_a_lesson_work_after_all_cells_ran(lab, browser, path: Path) -> None:
    """Move each widget's control, and see its picture change, no error and no question."""
    notebook = nbformat.read(path, as_version=4)
    places = [i for i, cell in enumerate(notebook.cells) if "widget" in cell.metadata.get("tags", [])]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        cell.outputs, cell.execution_count = [], None
    done = """count => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]
        .filter(prompt => /^\\[\\d+\\]:$/.test(prompt.textContent.trim())).length == count"""
    with opened(lab, browser, notebook, path.stem) as page:
        page.evaluate(RUN_ALL)
        page.wait_for_function(done, arg=len(code))
        for place in places:
            cell = page.locator(".jp-Notebook .jp-Cell").nth(place)
            cell.scroll_into_view_if_needed()  # a cell out of sight has no layout
            output = cell.locator(".jp-Cell-outputArea")
            picture = output.locator("img").first
            picture.wait_for()
            picture.scroll_into_view_if_needed()
            page.wait_for_timeout(500)  # the page settles, so that the first change is ours
            before = picture.screenshot()
            for i in range(240):
                if i % 20 == 0:  # again every 5 s: at some steps of a slider a lesson shows words and no picture
                    move(page, output, i // 20)
                if picture.screenshot() != before:
                    break
                page.wait_for_timeout(250)
            assert picture.screenshot() != before, "the picture does not change"
        red = "[data-mime-type='application/vnd.jupyter.stderr'], [data-mime-type='application/vnd.jupyter.error']"
        assert page.locator(red).filter(has_text=re.compile(r"\w")).count() == 0  # a bar that has gone leaves blanks
        assert page.get_by_text("Error displaying widget").count() == 0
        assert page.get_by_text("Jupyter news").count() == 0


@pytest.mark.slow
def test_a_photo_of_12_megapixels_is_uploaded_painted_repaired_and_saved(lab, browser, tmp_path: Path) -> None:
    root = lab[2]
    photo = np.asarray(Image.fromarray(draw_facade(7, (300, 400)).image).resize((4000, 3000)))
    Image.fromarray(photo).save(tmp_path / "house.png", compress_level=1)
    source = """import pathlib, maelib.course.photo_painter as widget, maelib.weights as weights
painter = widget.PhotoPainter(weights.load_model(weights.bundled_checkpoint()))
painter.folder = pathlib.Path()
painter"""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)"}}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)], metadata=kernel)
    with opened(lab, browser, notebook, "photo") as page:
        page.evaluate(RUN_ALL)
        page.locator(".maelib-photo input[type=file]").set_input_files(tmp_path / "house.png")
        page.get_by_text("house.png, 4000 x 3000 px").wait_for()
        move(page, page.locator(".maelib-photo"))
        page.get_by_text("% of the photo is painted").wait_for()
        page.get_by_role("button", name="Repair", exact=True).click()
        page.get_by_text("Repairing, pass 2").wait_for()
        page.get_by_text("Repaired.").wait_for()
        page.get_by_role("button", name="Save repair and mask").click()
        with page.expect_download() as download:
            page.get_by_role("button", name="Download the repair").click()
        assert download.value.path().read_bytes() == (root / "house_repaired.png").read_bytes()
    hole = np.asarray(Image.open(root / "house_mask.png")) > 127
    assert 0 < hole.mean() < 0.1
    np.testing.assert_array_equal(np.asarray(Image.open(root / "house_repaired.png"))[~hole], photo[~hole])
