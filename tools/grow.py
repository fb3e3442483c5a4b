"""Make a deeper model that computes the same as the bundled one: `python tools/grow.py DEPTH DECODER_DEPTH OUT`.

Each new block is a copy of the block before it whose two output layers are zero, so that it changes nothing until
training finds a use for it (Chen et al. 2016, "Net2Net"; Wu et al. 2024, "LLaMA Pro").
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from maelib.model import MaskedAutoencoder
from maelib.weights import bundled_checkpoint, load_model, save_model


def grow(model: MaskedAutoencoder, depth: int, decoder_depth: int) -> MaskedAutoencoder:
    """A model of `depth` and `decoder_depth` blocks with the outputs of `model`, which has fewer of both."""
    old, weights = model.config, model.state_dict()
    grown = MaskedAutoencoder(replace(old, depth=depth, decoder_depth=decoder_depth))
    new = {name: value for name, value in weights.items() if "blocks." not in name}
    for part, before, after in (("", old.depth, depth), ("decoder_", old.decoder_depth, decoder_depth)):
        sources = [i * before // after for i in range(after)]
        for i, source in enumerate(sources):
            for name, value in weights.items():
                if name.startswith(f"{part}blocks.{source}."):
                    layer = name.removeprefix(f"{part}blocks.{source}.")
                    added = i and sources[i - 1] == source and layer.startswith(("attn.proj", "mlp.fc2"))
                    new[f"{part}blocks.{i}.{layer}"] = torch.zeros_like(value) if added else value
    grown.load_state_dict(new, strict=False)
    return grown.eval()


if __name__ == "__main__":
    depth, decoder_depth, out = sys.argv[1:]
    save_model(Path(out), grow(load_model(bundled_checkpoint()), int(depth), int(decoder_depth)), {})
