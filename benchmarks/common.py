"""What the benchmarks share: machine and CPU time, test images, how a report names files and keeps figures small."""

import io
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from maelib.data.images import TEST_SEEDS, FolderImages
from maelib.files import write_atomic
from maelib.repair.evaluate import drawn_test_images

RESULTS = Path(__file__).parent / "results"
DRAWN, PHOTOS = "Drawn facades, held out", "Real photos"


def machine() -> str:
    """What the times were measured on."""
    name = getattr(torch.cpu, "get_capabilities", dict)().get("cpu_name") or platform.processor()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} cores ({name}), {device}, torch {torch.__version__}, Python {platform.python_version()}"


def command() -> str:
    """What was typed, but for where the report goes and where other files lie."""
    words = [word for before, word in pairwise(sys.argv) if "--out" not in (before, word)]
    words = [shown(Path(word)) if Path(word).is_absolute() else word for word in words]
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def write_report(path: Path, title: str, lines: Sequence[str]) -> None:
    """Write, and print, a report in Markdown that says by which command and on what it was made."""
    head = f"`{command()}`. Machine: {machine()}; {torch.get_num_threads()} thread(s)."
    text = "\n".join([f"# {title}", "", head, *lines, ""])
    write_atomic(path, text.encode())
    print(text)


def now(device: torch.device) -> float:
    """The clock's seconds, once the device has finished its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def cpu_seconds() -> tuple[float, float]:
    """CPU time so far of this process, and of its children that have ended."""
    times = os.times()
    return times.user + times.system, times.children_user + times.children_system


def image_sets(size: int, photos: Path | None, count: int = len(TEST_SEEDS)) -> dict[str, Tensor]:
    """Images `(B, 3, size, size)` in [0, 1] by name: `count` held-out drawings and, if given, a folder's photos."""
    sets = {DRAWN: drawn_test_images(size, count)}
    if photos is not None:
        images = FolderImages(photos, size)
        sets[PHOTOS] = torch.stack([images[i][:3] for i in range(len(images))]) / 255
    return sets


def shown(path: Path) -> str:
    """A file as a report names it: from the repository's root, or by its bare name when it lies elsewhere."""
    path, root = Path(path).resolve(), Path(__file__).resolve().parents[1]
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def save_small(figure: Figure, path: Path) -> None:
    """Save a figure as a PNG of 256 colours, a third of the size."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(buffer).convert("RGB").quantize(256).save(path, optimize=True)
