"""Normalise, execute and check the notebooks: `python tools/build.py [00_start_here ...]`, all of them by default.

The .ipynb files are the source. This script gives every notebook the same setup cell, each lesson its badge, and all of
them plain metadata; executes them from a fresh kernel, keeps what a reader needs of the outputs, tells what they cost,
and then runs the tests of the notebooks' form. A notebook with a cell that fails is left as it was.
"""

import argparse
import json
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from maelib.files import write_atomic

HERE = Path(__file__).absolute().parents[1] / "notebooks"
FORM = HERE.parent / "tests" / "test_notebooks.py"
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
RUN_TIME = re.compile(r"(\d+) s(?:econds)? on 2 (?:CPU )?cores")  # in the head of a lesson
COST = """\
import json, pathlib, re, resource
usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
peak, status = usages[0].ru_maxrss, pathlib.Path("/proc/self/status")
if status.exists():  # on Linux ru_maxrss is that of the process that started this one, if it was the larger
    peak = 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", status.read_text())[1])
print(json.dumps([sum(usage.ru_utime + usage.ru_stime for usage in usages), peak]))
"""


class Cost(NamedTuple):
    """What a notebook took: seconds by the clock, seconds on all cores together, and its kernel's peak in bytes."""

    wall: float
    cpu: float
    peak: float


class CellFailedError(Exception):
    """A notebook, its cell, and what went wrong there."""


def paths() -> list[Path]:
    """The notebooks of the course, then their solutions."""
    return sorted(HERE.glob("*.ipynb")) + sorted(HERE.glob("solutions/*.ipynb"))


def stated_seconds(path: Path) -> int:
    """How long the head of a lesson says that it takes; 0 for solutions, which do not say."""
    stated = RUN_TIME.search(path.read_text(encoding="utf-8"))
    return int(stated[1]) if stated else 0


def address() -> str:
    """Where the repository lives on the web; empty while pyproject.toml does not say."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository", "")


def setup_cell() -> str:
    """Source of the setup cell, the same in all notebooks."""
    return SETUP.format(address=address()).strip()


def with_badge(head: str, name: str) -> str:
    """The first cell of lesson `name`, with the badge that opens it in Colab below its title, if it can be opened."""
    head = ANY_BADGE.sub("", head).strip()
    if not address():
        return head
    title, _, rest = head.partition("\n")
    badge = BADGE.format(place=address().removeprefix("https://github.com/"), name=name)
    return f"{title}\n\n{badge}\n\n{rest.strip()}".strip()


def normalise(notebook: NotebookNode, path: Path) -> NotebookNode:
    """Give the notebook of `path` setup cell, badge and plain metadata, and reduce its outputs to text and PNG."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        cell.source = setup_cell() if "setup" in tags else cell.source.strip()
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)  # it names a model of a kernel that is gone
            if "metadata" in output:
                output.metadata = nbformat.from_dict({k: v for k, v in output.metadata.items() if k == "image/png"})
    if path.parent == HERE:
        notebook.cells[0].source = with_badge(notebook.cells[0].source, path.name)
    return notebook


def save(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook, all of it or nothing."""
    write_atomic(path, (nbformat.writes(notebook).rstrip("\n") + "\n").encode())


def execute(path: Path) -> Cost:
    """Run a notebook from a fresh kernel and write it back.

    Raises
    ------
    CellFailedError
        When a cell raises, never ends or takes the kernel with it; the file is then left as it was.
    """
    notebook = normalise(nbformat.read(path, as_version=4), path)
    notebook.cells.append(nbformat.v4.new_code_cell(COST))
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
        raise CellFailedError(f"{path.relative_to(HERE)}, code cell {len(code)}, `{first_line}`: {what}") from error
    wall = time.perf_counter() - started
    cpu, peak = json.loads(notebook.cells.pop().outputs[0].text)
    save(normalise(notebook, path), path)
    return Cost(wall, cpu, peak)


def cost_table(costs: dict[Path, Cost]) -> str:
    """A line for each notebook and one for their sum."""
    lines = [("notebook", "wall s", "CPU s", "peak MB")]
    lines += [
        (str(path.relative_to(HERE)), f"{cost.wall:.0f}", f"{cost.cpu:.0f}", f"{cost.peak / 1e6:.0f}")
        for path, cost in costs.items()
    ]
    if len(costs) > 1:
        walls, cpus, peaks = zip(*costs.values(), strict=True)
        lines.append(("all", f"{sum(walls):.0f}", f"{sum(cpus):.0f}", f"{max(peaks) / 1e6:.0f}"))
    width = max(len(line[0]) for line in lines)
    return "\n".join(f"{name:{width}}  {wall:>7}  {cpu:>7}  {peak:>8}" for name, wall, cpu, peak in lines)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="file names without .ipynb; all notebooks when none is given")
    parser.add_argument("--check", action="store_true", help="test the form alone: execute and change nothing")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - {path.stem for path in paths()}:
        parser.error(f"no notebook named {', '.join(sorted(unknown))}")

    costs: dict[Path, Cost] = {}
    failures: list[CellFailedError] = []
    for path in [] if options.check else paths():
        if not options.names or path.stem in options.names:
            print(f"executing {path.relative_to(HERE)}", flush=True)
            try:
                costs[path] = execute(path)
            except CellFailedError as failure:
                failures.append(failure)
    if costs:
        print(cost_table(costs), flush=True)
    for failure in failures:
        print(f"failed, and left as it was: {failure}", file=sys.stderr)
    if failures:
        return 1
    chosen = ["-k", " or ".join(options.names)] if options.names else []
    return subprocess.call([sys.executable, "-m", "pytest", "-q", str(FORM), *chosen])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
