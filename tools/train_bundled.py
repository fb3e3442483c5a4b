"""Train the bundled model for about so many minutes: `python tools/train_bundled.py MINUTES FOLDER OPTIONS`.

Two fifths of the time go to drawings of 64 px, the rest to drawings of 96 px. OPTIONS are those of `maelib train`, for
both. FOLDER/facade_small.safetensors is the result in float16, half the size; reading it gives float32 again.
"""

import sys
from pathlib import Path

import train_for

from maelib.weights.checkpoint import load_model, save_model

STAGES = {
    64: (0.4, "--lr 4e-3 --scale 0.7 1 --jitter 0.3 --hue 0.05"),
    96: (0.6, "--lr 2e-3 --jitter 0.2 --hue 0.05"),
}


def main(minutes: float, folder: Path, options: list[str]) -> None:
    """Train both stages, and store the result."""
    start = []
    for size, (share, own) in STAGES.items():
        run = ["--recipe", "facade_small", "--img-size", str(size), *own.split(), "--out", str(folder / str(size))]
        train_for.main(share * minutes, [*run, *start, *options])
        start = ["--init", str(folder / str(size) / "model.safetensors")]
    save_model(folder / "facade_small.safetensors", load_model(folder / "96" / "model.safetensors").half(), {})


if __name__ == "__main__":
    main(float(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
