"""Normalise, execute and check the notebooks: `python tools/build.py [00_start_here ...]`, all of them by default.

The .ipynb files are the source. This script gives every notebook the same setup cell, a Colab badge and plain metadata.
It executes each notebook in a fresh kernel and keeps the outputs that a reader needs. The run time and memory of a
lesson go into notebooks/costs.json, and from there into the lesson's head and docs/teachers.md. At last the script runs
the tests of the notebooks' form. A notebook with a failing cell is left as it was.
"""

import argparse
import json
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
from nbformat.v4 import new_code_cell

from maelib.files import write_atomic

ROOT = Path(__file__).absolute().parents[1]
WIDGET = "application/vnd.jupyter.widget-view+json"
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
SETUP = """\
# Set-up: on Colab, install the library and keep Colab's own torch and numpy; anywhere else, do nothing.
import glob, importlib.metadata, subprocess, sys
if "google.colab" in sys.modules:
    library = {library}
    keep = [f"{{name}}=={{importlib.metadata.version(name)}}" for name in ("torch", "torchvision", "numpy")]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", library, *keep], check=True)
"""
WHEEL = 'max(glob.glob("maelib-*.whl")) + "[classical]"  # first upload the wheel that `make wheel` builds'
COLAB = "https://colab.research.google.com"
BADGE = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({COLAB}/github/{{place}}/blob/main/{{name}})"
ANY_BADGE = re.compile(r"^\[!\[Open in Colab\].*\n*", re.MULTILINE)
RUN_TIME = re.compile(r"(?<=\*\*Run time:\*\* ).*(?= on 2 CPU cores)")  # in the head of a lesson
PEAK = """\
import resource, sys
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""  # in bytes


class CellFailedError(Exception):
    """A cell of a notebook failed; the message names the notebook, the cell and the error."""


def lessons() -> list[Path]:
    """The notebooks of the course."""
    return sorted(ROOT.glob("notebooks/*.ipynb"))


def paths() -> list[Path]:
    """The notebooks of the course, then their solutions."""
    return lessons() + sorted(ROOT.glob("notebooks/solutions/*.ipynb"))


def costs() -> dict[str, dict[str, float]]:
    """The seconds and gigabytes that the last build of each lesson took, rounded."""
    file = ROOT / "notebooks" / "costs.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def rounded(seconds: float, memory: int) -> dict[str, float]:
    """A run's cost in steps so coarse that the next run has the same: 10 s, above a minute 30 s, and 0.5 GB."""
    step = 10 if seconds < 55 else 30
    return {"seconds": max(step, step * round(seconds / step)), "gigabytes": max(0.5, round(2 * memory / 1e9) / 2)}


def stated(seconds: int, gigabytes: float) -> tuple[str, str]:
    """A run's cost in words."""
    minutes = "1 minute" if seconds == 60 else f"{seconds / 60:g} minutes"
    return minutes if seconds >= 60 else f"{seconds} s", f"{gigabytes:g} GB"


def with_costs(table: str) -> str:
    """The table for teachers with each lesson's run time and memory."""
    for name, cost in costs().items():
        row = rf"^(\| {name.replace('_', ' ')} \|[^|]*\|)[^|]*\|[^|]*\|"
        table = re.sub(row, r"\1 {} | {} |".format(*stated(**cost)), table, flags=re.MULTILINE)
    return table


def address() -> str:
    """The repository's web address in pyproject.toml, or an empty string."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository", "")


def setup_cell(address: str) -> str:
    """Source of the setup cell, which installs from the repository's address, or from a wheel when there is none."""
    return SETUP.format(library=f'"maelib[classical] @ git+{address}"' if address else WHEEL).strip()


def with_badge(head: str, path: Path) -> str:
    """The first cell of a notebook, with a Colab badge below its title when the repository has an address."""
    head = ANY_BADGE.sub("", head).strip()
    if not address():
        return head
    title, _, rest = head.partition("\n")
    badge = BADGE.format(place=address().removeprefix("https://github.com/"), name=path.relative_to(ROOT).as_posix())
    return f"{title}\n\n{badge}\n\n{rest.strip()}".strip()


def normalise(notebook: NotebookNode, path: Path) -> NotebookNode:
    """Give a notebook the setup cell, its badge, its run time and plain metadata, and its outputs no more than data."""
    notebook.metadata = nbformat.from_dict(METADATA)
    cost = costs().get(path.stem) if path in lessons() else None
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        cell.source = setup_cell(address()) if "setup" in tags else cell.source.strip()
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)  # it refers to a kernel that has ended
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})
        if cost and cell.cell_type == "markdown":
            cell.source = RUN_TIME.sub("{} and {} of memory".format(*stated(**cost)), cell.source)
    notebook.cells[0].source = with_badge(notebook.cells[0].source, path)
    return notebook


def save(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook whole or not at all."""
    write_atomic(path, (nbformat.writes(notebook).rstrip("\n") + "\n").encode())


def execute(path: Path) -> dict[str, float]:
    """Run a notebook in a fresh kernel, write it back, and return the time and memory that it took, `rounded`.

    Raises
    ------
    CellFailedError
        When a cell raises, never ends or ends the kernel; the file is then left as it was.
    """
    notebook = normalise(nbformat.read(path, as_version=4), path)
    notebook.cells.append(new_code_cell(PEAK))
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
    cost = rounded(time.perf_counter() - started, int(notebook.cells.pop().outputs[0].text))
    if path in lessons():
        text = json.dumps({**costs(), path.stem: cost}, indent=2, sort_keys=True)
        write_atomic(ROOT / "notebooks" / "costs.json", f"{text}\n".encode())
        table = ROOT / "docs" / "teachers.md"
        write_atomic(table, with_costs(table.read_text(encoding="utf-8")).encode())
    save(normalise(notebook, path), path)
    return cost


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
                print(", ".join(stated(**execute(path))), flush=True)
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
