"""Plant faults in the library and check that the notebooks notice each: `python tools/faults.py [WORDS]`.

A course whose outputs stay the same when the library is wrong proves nothing. Each fault changes one line of `maelib`
in a temporary copy of the package. The notebooks that should notice run with that copy, the quickest first, until one
fails under nbval. WORDS selects the faults whose description contains them.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).absolute().parents[1]


class Fault(NamedTuple):
    """A line of a module, the line that replaces it, and the numbers of the notebooks that should notice."""

    what: str
    module: str
    line: str
    instead: str
    notebooks: tuple[str, ...]


FAULTS = [
    Fault(
        "a mask hides the patches that should stay visible",
        "masking",
        "return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, ids, True)",
        "return torch.ones_like(scores, dtype=torch.bool).scatter_(1, ids, False)",
        ("00", "02"),
    ),
    Fault(
        "the last row of a block is filled up, beyond the count",
        "masking",
        "return torch.where(inside & (rank < count), rank, -1)",
        "return torch.where(inside, rank, -1)",
        ("02", "00"),
    ),
    Fault(
        "a patch is hidden only where the hole covers all of it",
        "masking",
        "return F.max_pool2d(hole[:, None].float(), patch_size).flatten(1).bool()  # (B, 1, H, W) -> (B, N)",
        "return ~F.max_pool2d((~hole)[:, None].float(), patch_size).flatten(1).bool()",
        ("00", "02"),
    ),
    Fault(
        "the encoder sees the hidden patches",
        "masking",
        "ids = mask.int().argsort(dim=1, stable=True)  # (B, N)",
        "ids = (~mask).int().argsort(dim=1, stable=True)",
        ("00", "02", "03"),
    ),
    Fault(
        "the mean of all patches, hidden ones included, leaks into the encoder's input",
        "model",
        "x = x.gather(1, ids_keep[..., None].expand(-1, -1, x.shape[-1]))  # (B, N, D) -> (B, K, D)",
        "x = x.mean(1, keepdim=True) + x.gather(1, ids_keep[..., None].expand(-1, -1, x.shape[-1]))",
        ("00", "03"),
    ),
    Fault(
        "the encoder gets no positions",
        "model",
        "x = self.patch_embed(x) + positions[:, self.extra :]  # (B, C, H, W) -> (B, N, D)",
        "x = self.patch_embed(x)",
        ("00", "03"),
    ),
    Fault(
        "attention is not rotated by row and column",
        "model",
        "q, k = rotate(qkv[:2], angles)",
        "q, k = qkv[:2]",
        ("00", "03"),
    ),
    Fault(
        "patches are put back with rows and columns swapped",
        "patches",
        "images = images.permute(0, 5, 1, 3, 2, 4)  # (B, H/p, W/p, p, p, C) -> (B, C, H/p, p, W/p, p)",
        "images = images.permute(0, 5, 2, 3, 1, 4)",
        ("01", "00"),
    ),
    Fault(
        "attention is rotated by row twice and never by column",
        "patches",
        "return torch.cat([row[:, None] * omega, col[:, None] * omega], dim=1)",
        "return torch.cat([row[:, None] * omega, row[:, None] * omega], dim=1)",
        ("00", "03"),
    ),
    Fault(
        "PSNR is computed over the whole image",
        "metrics",
        "weights = where[:, None].to(values.dtype)",
        "weights = torch.ones_like(where)[:, None].to(values.dtype)",
        ("00", "06"),
    ),
    Fault(
        "SSIM sees the prediction outside the hole",
        "metrics",
        "composite = torch.where(hole[:, None], prediction, target)",
        "composite = prediction",
        ("06",),
    ),
    Fault(
        "the loss divides by the number of all patches",
        "losses",
        "return (error * mask).sum() / count",
        "return (error * mask).sum() / mask.numel()",
        ("04",),
    ),
    Fault(
        "features are compared outside the hole too",
        "losses",
        "weight = F.adaptive_avg_pool2d(hole[:, None].to(exact), ours.shape[-2:])  # -> (B, 1, H', W')",
        "weight = torch.ones_like(ours[:, :1], dtype=exact)",
        ("04",),
    ),
    Fault(
        "VGG19 gets pixels that are not normalised",
        "perceptual",
        "x = ((images - self.mean) / self.std).to(self.features[0].weight.dtype, memory_format=torch.channels_last)",
        "x = images.to(self.features[0].weight.dtype, memory_format=torch.channels_last)",
        ("04",),
    ),
    Fault(
        "the learning rate never falls",
        "training/optim",
        "return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))",
        "return 1.0",
        ("05",),
    ),
    Fault(
        "biases and norms are trained and decayed like matrices",
        "training/optim",
        'if parameter.ndim < 2 or "token" in name or "pos_embed" in name:',
        'if "token" in name or "pos_embed" in name:',
        ("05",),
    ),
    Fault(
        "near-duplicates are on both sides of the split",
        "data/images",
        "if differing.min() <= MAX_DISTANCE:",
        "if differing.min() < 0:",
        ("05",),
    ),
    Fault(
        "a resumed run starts its data again",
        "data/images",
        "for step in range(self.first_step, self.steps):",
        "for step in range(self.steps):",
        ("05",),
    ),
    Fault(
        "the corners of a turned crop leave the picture",
        "data/augment",
        "half = (self.scale[0] + (self.scale[1] - self.scale[0]) * u[2]).minimum(1 / reach)",
        "half = self.scale[0] + (self.scale[1] - self.scale[0]) * u[2]",
        ("05",),
    ),
    Fault(
        "the colours of a repaired tile do not meet those around the hole",
        "repair/photo",
        "tiles = blend_seam(tiles, _predict(model, tiles, torch.stack(masks)), gaps)",
        "tiles = _predict(model, tiles, torch.stack(masks))",
        ("00",),
    ),
    Fault(
        "the probe's head ignores the mean that standardised its features",
        "transfer/classifier",
        "classifier.head.bias.copy_(bias - weight @ (mean / deviation))",
        "classifier.head.bias.copy_(bias)",
        ("08",),
    ),
    Fault(
        "copies are chosen without a look at what surrounds the hole",
        "repair/detail",
        "GUIDE_WEIGHT, RIM_WEIGHT, CONTEXT_WEIGHT = 4.0, 6.0, 2.0",
        "GUIDE_WEIGHT, RIM_WEIGHT, CONTEXT_WEIGHT = 4.0, 6.0, 0.0",
        ("07",),
    ),
]


def mutate(fault: Fault, source: str) -> str:
    """The module's source with the fault in it.

    Raises
    ------
    ValueError
        When the module does not contain the line exactly once.
    """
    lines = source.splitlines(keepends=True)
    places = [i for i, line in enumerate(lines) if line.strip() == fault.line]
    if len(places) != 1:
        raise ValueError(f"maelib/{fault.module}.py has the line `{fault.line}` {len(places)} times, not once")
    lines[places[0]] = lines[places[0]].replace(fault.line, fault.instead)
    return "".join(lines)


@contextmanager
def planted(fault: Fault | None, root: Path = ROOT) -> Iterator[Path]:
    """A folder with a copy of the package that has the fault, and a link to the data that the package expects."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(root / "maelib", folder / "maelib", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "data").symlink_to(root / "data")
        if fault is not None:
            module = folder / "maelib" / f"{fault.module}.py"
            module.write_text(mutate(fault, module.read_text(encoding="utf-8")), encoding="utf-8")
        yield folder


def first_failure(notebook: Path, folder: Path) -> str | None:
    """The first code cell of a notebook that fails with the package in `folder`; None when all pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-p", "nbval.plugin"]
    command += ["-p", "nbval_settings", "--nbval", "--nbval-current-env", str(notebook)]
    path = os.pathsep.join([str(folder), str(ROOT / "tools")])
    own = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment = {**os.environ, **own}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if run.returncode == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) .*::Cell (\d+)", run.stdout, re.MULTILINE)
    if run.returncode != 1 or failed is None:
        raise RuntimeError(f"{notebook.name} could not be run:\n{run.stdout}{run.stderr}")
    return f"{notebook.stem}, code cell {int(failed[1]) + 1}"


def lessons(numbers: tuple[str, ...], root: Path = ROOT) -> list[Path]:
    """The paths of the lessons with the given numbers."""
    return [path for number in numbers for path in sorted((root / "notebooks").glob(f"{number}_*.ipynb"))]


def noticed(fault: Fault | None, notebooks: list[Path], root: Path = ROOT) -> str | None:
    """The cell that notices the fault first; None when no notebook notices it."""
    with planted(fault, root) as folder:
        return next(filter(None, (first_failure(notebook, folder) for notebook in notebooks)), None)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="?", default="", help="plant only faults whose description contains this")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="number of faults to test at the same time")
    options = parser.parse_args(arguments)
    faults = [fault for fault in FAULTS if options.words in fault.what]
    width = max((len(fault.what) for fault in faults), default=0)
    with ThreadPoolExecutor(options.jobs) as pool:
        places = pool.map(lambda fault: noticed(fault, lessons(fault.notebooks)), faults)
        found: dict[str, str | None] = {}
        for fault, place in zip(faults, places, strict=True):
            found[fault.what] = place
            print(f"{fault.what:{width}}  {place or 'NOT NOTICED by ' + ', '.join(fault.notebooks)}", flush=True)
        stems = sorted({place.partition(",")[0] for place in found.values() if place})
        sound = [ROOT / "notebooks" / f"{stem}.ipynb" for stem in stems]
        for path, place in zip(sound, pool.map(lambda path: noticed(None, [path]), sound), strict=True):
            if place:  # such a notebook proves nothing
                print(f"{path.stem} fails without any fault too: {place}", flush=True)
                found[path.stem] = None
    print(f"{sum(map(bool, found.values()))} of {len(found)} faults were noticed")
    return 0 if found and all(found.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
