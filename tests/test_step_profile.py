"""The profile of a training step: its operations are counted right, and its table adds up."""

from dataclasses import replace

import pytest
import torch
from step_profile import main, profile
from tiny import TINY

from maelib.training.recipes import TrainConfig

CONFIG = TrainConfig(model=TINY, batch_size=4, mask_ratio=(0.5, 0.5), precision="float32", optimizer="adamw")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_products_of_one_forward_pass_are_counted_stage_by_stage(accumulate):
    state = torch.get_rng_state()
    stages = profile(replace(CONFIG, accumulate=accumulate), rounds=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(stages) == ["augmentation and masks", "encoder", "decoder", "loss", "backward", "optimizer"]
    assert all(stage.seconds > 0 for stage in stages.values())
    images = 4 // accumulate
    linear = 2 * images * (16 * 192 * 32 + 8 * 32 * (3 + 1 + 4 + 4) * 32)  # 16 patches embedded, 8 of them attended to
    attention = 2 * 2 * images * 8 * 8 * 32
    assert stages["encoder"].flops == linear + attention
    assert stages["augmentation and masks"].flops == stages["loss"].flops == stages["optimizer"].flops == 0
    assert 1.5 < stages["backward"].flops / (stages["encoder"].flops + stages["decoder"].flops) <= 2


def test_a_recipe_is_profiled_from_the_command_line(capsys):
    main("facade_tiny", batch_size=2, rounds=1)
    printed = capsys.readouterr().out
    assert "2 images a step" in printed
    rows = [line.split("|")[1:-1] for line in printed.splitlines()[4:]]
    assert sum(float(row[1]) for row in rows[:-1]) == pytest.approx(float(rows[-1][1]), abs=0.5)  # rounded to 0.1 ms
