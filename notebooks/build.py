"""Normalise, execute and check the notebooks: `python notebooks/build.py [00_start_here ...]`, all of them by default.

The .ipynb files are the source. This script gives every notebook the same setup cell and plain metadata, executes it
from a fresh kernel, keeps what a reader needs of the outputs, and then runs the tests of the notebooks' form.
"""

import argparse
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent
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
    source = wheels[-1] if wheels else "git+" + address
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source, *keep], check=True)
    output.enable_custom_widget_manager()
"""


def paths() -> list[Path]:
    """The notebooks of the course, then their solutions."""
    return sorted(HERE.glob("*.ipynb")) + sorted(HERE.glob("solutions/*.ipynb"))


def address() -> str:
    """Where the repository lives on the web; empty while pyproject.toml does not say."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository", "")


def setup_cell() -> str:
    """Source of the setup cell, the same in all notebooks."""
    return SETUP.format(address=address()).strip()


def normalise(notebook: NotebookNode) -> NotebookNode:
    """Give a notebook the setup cell and plain metadata, and reduce its outputs to text and PNG, in place."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        cell.source = setup_cell() if "setup" in tags else cell.source.strip()
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)  # it names a model of a kernel that is gone
            if "metadata" in output:
                output.metadata = nbformat.from_dict({k: v for k, v in output.metadata.items() if k == "image/png"})
    return notebook


def execute(path: Path) -> float:
    """Run a notebook from a fresh kernel and write it back; returns the seconds it took."""
    notebook = normalise(nbformat.read(path, as_version=4))
    started = time.perf_counter()
    client = NotebookClient(
        notebook,
        timeout=1200,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        store_widget_state=False,
    )
    client.execute()
    seconds = time.perf_counter() - started
    nbformat.write(normalise(notebook), path)
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="file names without .ipynb; all notebooks when none is given")
    names = set(parser.parse_args().names)
    if unknown := names - {path.stem for path in paths()}:
        parser.error(f"no notebook named {', '.join(sorted(unknown))}")
    for path in paths():
        if not names or path.stem in names:
            print(f"{path.relative_to(HERE)}: {execute(path):.0f} s")
    return subprocess.call([sys.executable, "-m", "pytest", "-q", str(HERE.parent / "tests" / "test_notebooks.py")])


if __name__ == "__main__":
    sys.exit(main())
