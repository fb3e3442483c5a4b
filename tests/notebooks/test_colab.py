"""Colab, as far as one machine can play it: a bare folder, a Python with what Colab brings, and `google.colab`.

A notebook comes alone. Its setup cell installs the library from a git repository, fetches what is missing from the
package index, and must leave torch and numpy alone. What Colab brings is linked into a fresh environment file by file,
so that pip could replace each file there as on Colab, and the test would see it.
"""

import contextlib
import json
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import cache_from_source
from pathlib import Path
from types import SimpleNamespace

import build
import nbformat
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BROUGHT = (
    "torch", "torchvision", "numpy", "matplotlib", "ipywidgets", "ipykernel", "pip", "accelerate", "timm",
    "scikit-image", "opencv-python-headless",
)  # fmt: skip
KEPT = ("torch", "torchvision", "numpy")
STUB = "calls = []\n\n\ndef enable_custom_widget_manager():\n    calls.append(1)\n"
STUB += "\n\nclass _widgets:\n    _installed_url = None\n"  # which anywidget looks at
LAST_CELL = """\
import anywidget, google.colab.output, json, maelib, torch, torchvision, numpy
anywidget.AnyWidget()
print(json.dumps({
    "files": [m.__file__ for m in (torch, torchvision, numpy, maelib)],
    "widgets": google.colab.output.calls,
}))
"""


def with_requirements(names: tuple[str, ...]) -> list[Distribution]:
    """Installed distributions with all that they need."""
    found, waiting = {}, [Requirement(name) for name in names]
    while waiting:
        wanted = waiting.pop()
        for key in {(canonicalize_name(wanted.name), extra) for extra in ("", *wanted.extras)} - found.keys():
            with contextlib.suppress(PackageNotFoundError):  # another platform's, or an alternative that was not chosen
                found[key] = distribution(key[0])
                needs = map(Requirement, found[key].requires or [])
                waiting += [need for need in needs if need.marker is None or need.marker.evaluate({"extra": key[1]})]
    return list(found.values())


def link(package: Distribution, packages: Path) -> None:
    """Give the folder `packages` a link to each of the distribution's own files, its compiled ones included."""
    own = [file for file in package.files or [] if not {"..", "__pycache__"} & {*file.parts}]  # no commands, no data
    compiled = [Path(cache_from_source(str(file))) for file in own if file.suffix == ".py"]
    for file in [*own, *compiled]:
        source, target = Path(package.locate_file(file)), packages / file
        if source.exists() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skip where pip can fetch nothing."""
    folder = tmp_path_factory.mktemp("fetched")
    fetch = [sys.executable, "-m", "pip", "download", "--no-deps", "--retries", "1", "--dest", str(folder), "hatchling"]
    if subprocess.run(fetch, capture_output=True, check=False).returncode:
        pytest.skip("no package index is in reach")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a git repository with the files of this one as they are now."""
    copy = tmp_path_factory.mktemp("repository")
    git = ["git", "--git-dir", copy / ".git", "--work-tree", ROOT, "-c", "user.name=test", "-c", "user.email=t@e.com"]
    commit, serve = ["commit", "-q", "-m", "The files as they are"], ["config", "uploadpack.allowFilter", "true"]
    for command in (["init", "-q"], ["add", "-A"], commit, serve):
        subprocess.run([*git, *command], cwd=ROOT, check=True)
    return copy.as_uri()


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The packages of a fresh Python with what Colab brings; Jupyter knows its kernel as `colab`."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    for package in with_requirements(BROUGHT):
        link(package, packages)
    (packages / "google" / "colab").mkdir(parents=True)
    (packages / "google" / "colab" / "output.py").write_text(STUB)
    (packages / "colab.pth").write_text("import google.colab.output\n")  # Colab's kernels load it when they start
    monkeypatch.delenv("PYTHONPATH", raising=False)
    kernel = ["-m", "ipykernel", "install", "--name", "colab", "--prefix", tmp_path]
    subprocess.run([environment / "bin" / "python", *kernel], check=True)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    (tmp_path / "content").mkdir()
    return packages


def check_on_colab(path: Path, packages: Path, folder: Path, address: str, cells: slice = slice(None)) -> None:
    """Run a notebook alone in a folder: the library is there, widgets are on, and torch and numpy are as before."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [*notebook.cells[cells], nbformat.v4.new_code_cell(LAST_CELL)]
    for cell in notebook.cells:
        if "setup" in cell.metadata.get("tags", []):
            cell.source = build.setup_cell(address)
    kept = [packages / file for name in KEPT for file in distribution(name).files if (packages / file).is_symlink()]
    assert len(kept) > 1000
    NotebookClient(notebook, timeout=1200, kernel_name="colab", resources={"metadata": {"path": str(folder)}}).execute()
    found = json.loads(notebook.cells[-1].outputs[0].text)
    assert found["widgets"], "Colab shows widgets other than ipywidgets' own only after this call"
    assert all(Path(file).is_relative_to(packages) for file in found["files"])
    assert all(file.is_symlink() and file.exists() for file in kept), "pip would have written a file of its own"


@pytest.mark.needs("git")
@pytest.mark.usefixtures("index")
@pytest.mark.parametrize("path", [LESSONS[0], *(pytest.param(path, marks=pytest.mark.slow) for path in LESSONS[1:])])
def test_a_lesson_alone_runs_on_colab(path: Path, packages: Path, repository: str, tmp_path: Path) -> None:
    check_on_colab(path, packages, tmp_path / "content", repository)


@pytest.mark.slow
@pytest.mark.usefixtures("index")
def test_an_uploaded_wheel_serves_as_well(packages: Path, tmp_path: Path) -> None:
    wheel = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "content"]
    subprocess.run(wheel, cwd=ROOT, capture_output=True, check=True)
    check_on_colab(LESSONS[0], packages, tmp_path / "content", "", slice(5))


def test_without_address_and_wheel_the_setup_cell_fails_at_a_line_that_says_what_to_do(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        exec(build.setup_cell(""), {})
    line = build.setup_cell("").splitlines()[raised.traceback[-1].lineno]
    assert "first upload the wheel that `make wheel` builds" in line
