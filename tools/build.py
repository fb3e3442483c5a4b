"""Normalise, execute and check the notebooks: `python tools/build.py [00_start_here ...]`, all of them by default.

The .ipynb files are the source. This script gives every notebook the same setup cell and plain metadata, and each
lesson its Colab badge. It executes each notebook in a fresh kernel, keeps the outputs that a reader needs, prints how
long the run took, and then runs the tests of the notebooks' form. A notebook with a failing cell is left as it was.
"""

import argparse
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from maelib.files import write_atomic

ROOT = Path(__file__).absolute().parents[1]
WIDGET = "application/vnd.jupyter.widget-view+json"
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
SETUP = """\
# Set-up: on Colab, install the library and leave Colab's own torch and numpy as they are; elsewhere, do nothing.
try:
    from google.colab import output
except ImportError:
    output = None
if output:
    import glob, importlib.metadata, subprocess, sys
    address, wheels = "{address}", sorted(glob.glob("maelib-*.whl"))
    if not address and not wheels:
        raise SystemExit("Upload the wheel made by `make wheel`, or fill in the repository's address above.")
    keep = [f"{{name}}=={{importlib.metadata.version(name)}}" for name in ("torch", "torchvision", "numpy")]
    source = f"{{wheels[-1]}}[classical]" if wheels else f"maelib[classical] @ git+{{address}}"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source, *keep], check=True)
    output.enable_custom_widget_manager()
"""
COLAB = "https://colab.research.google.com"
BADGE = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({COLAB}/github/{{place}}/blob/main/notebooks/{{name}})"
ANY_BADGE = re.compile(r"^\[!\[Open in Colab\].*\n*", re.MULTILINE)
RUN_TIME = re.compile(r"(\d+) s on 2 CPU cores")  # in the head of a lesson


class CellFailedError(Exception):
    """A cell of a notebook failed; the message names the notebook, the cell and the error."""


def paths() -> list[Path]:
    """The notebooks of the course, then their solutions."""
    return sorted(ROOT.glob("notebooks/*.ipynb")) + sorted(ROOT.glob("notebooks/solutions/*.ipynb"))


def stated_seconds(path: Path) -> int:
    """The run time in seconds that the head of a lesson states; 0 for solutions, which state none."""
    stated = RUN_TIME.search(path.read_text(encoding="utf-8"))
    return int(stated[1]) if stated else 0


def address() -> str:
    """The repository's web address in pyproject.toml, or an empty string."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository", "")


def setup_cell() -> str:
    """Source of the setup cell, the same in every notebook."""
    return SETUP.format(address=address()).strip()


def with_badge(head: str, name: str) -> str:
    """The first cell of lesson `name`, with a Colab badge below its title when the repository has an address."""
    head = ANY_BADGE.sub("", head).strip()
    if not address():
        return head
    title, _, rest = head.partition("\n")
    badge = BADGE.format(place=address().removeprefix("https://github.com/"), name=name)
    return f"{title}\n\n{badge}\n\n{rest.strip()}".strip()


def normalise(notebook: NotebookNode, path: Path) -> NotebookNode:
    """Give a notebook the setup cell, plain metadata and a lesson's badge, and reduce its outputs to text and PNG."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        cell.source = setup_cell() if "setup" in tags else cell.source.strip()
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)  # it refers to a kernel that has ended
            if "metadata" in output:
                output.metadata = nbformat.from_dict({k: v for k, v in output.metadata.items() if k == "image/png"})
    if path.parent == ROOT / "notebooks":
        notebook.cells[0].source = with_badge(notebook.cells[0].source, path.name)
    return notebook


def save(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook whole or not at all."""
    write_atomic(path, (nbformat.writes(notebook).rstrip("\n") + "\n").encode())


def execute(path: Path) -> float:
    """Run a notebook in a fresh kernel, write it back, and return the seconds that it took.

    Raises
    ------
    CellFailedError
        When a cell raises, never ends or ends the kernel; the file is then left as it was.
    """
    notebook = normalise(nbformat.read(path, as_version=4), path)
    begun: list[NotebookNode] = []
    client = NotebookClient(
        notebook,
        timeout=1200,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        on_cell_start=lambda cell, cell_index: begun.append(cell),
    )
    started = time.perf_counter()
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        code = [cell for cell in begun if cell.cell_type == "code"]
        what = f"{error.ename}: {error.evalue}" if isinstance(error, CellExecutionError) else str(error).strip()
        first_line = code[-1].source.partition("\n")[0]
        raise CellFailedError(f"{path.relative_to(ROOT)}, code cell {len(code)}, `{first_line}`: {what}") from error
    seconds = time.perf_counter() - started
    save(normalise(notebook, path), path)
    return seconds


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="file names without .ipynb; all notebooks when none is given")
    parser.add_argument("--check", action="store_true", help="only test the form: execute and change nothing")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - {path.stem for path in paths()}:
        parser.error(f"no notebook named {', '.join(sorted(unknown))}")

    failures: list[CellFailedError] = []
    for path in [] if options.check else paths():
        if not options.names or path.stem in options.names:
            print(f"executing {path.relative_to(ROOT)}", end=" ", flush=True)
            try:
                print(f"{execute(path):.0f} s", flush=True)
            except CellFailedError as failure:
                print("failed", flush=True)
                failures.append(failure)
    for failure in failures:
        print(f"failed, and left as it was: {failure}", file=sys.stderr)
    if failures:
        return 1
    chosen = ["-k", " or ".join(options.names)] if options.names else []
    form = ROOT / "tests" / "notebooks" / "test_form.py"
    return subprocess.call([sys.executable, "-m", "pytest", "-q", str(form), *chosen])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
