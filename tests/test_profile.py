"""The profile of a step: its stages are counted right, and its table adds up."""

from dataclasses import replace

import pytest
import torch

from maelib.cli import main
from maelib.data.augment import Augment
from maelib.model import MAEConfig
from maelib.profile import Stage, profile, profile_figure, profile_table
from maelib.training.recipes import TrainConfig

SMALL = MAEConfig(img_size=32, embed_dim=32, depth=1, num_heads=2, decoder_embed_dim=16, decoder_depth=1,
                  decoder_num_heads=1)  # fmt: skip
CONFIG = TrainConfig(model=SMALL, batch_size=4, mask_ratio=(0.5, 0.5), precision="float32", optimizer="adamw")
STAGES = ["augmentation and masks", "encoder", "decoder", "loss", "backward", "optimiser"]


@pytest.fixture(scope="module")
def stages():
    return profile(CONFIG, rounds=2)


def test_every_stage_takes_time_and_the_products_are_counted(stages):
    assert [stage.name for stage in stages] == STAGES
    assert all(stage.seconds > 0 for stage in stages)
    flops = {stage.name: stage.flops for stage in stages}
    linear = 2 * 4 * (16 * 192 * 32 + 8 * 32 * (3 + 1 + 4 + 4) * 32)  # 16 patches embedded, 8 of them attended to
    attention = 2 * 2 * 4 * 8 * 8 * 32
    assert flops["encoder"] == linear + attention
    assert flops["augmentation and masks"] == flops["loss"] == flops["optimiser"] == 0
    assert flops["backward"] > 1.5 * (flops["encoder"] + flops["decoder"])


def test_what_is_kept_grows_with_the_batch_and_weights_are_not_counted(stages):
    kept = {stage.name: stage.kept for stage in stages}
    double = {stage.name: stage.kept for stage in profile(replace(CONFIG, batch_size=8), rounds=1)}
    assert kept["encoder"] > 0
    assert 1.8 < double["encoder"] / kept["encoder"] <= 2
    assert kept["optimiser"] == 0


def test_accumulation_keeps_less_at_a_time(stages):
    parts = {stage.name: stage.kept for stage in profile(replace(CONFIG, accumulate=2), rounds=1)}
    assert parts["decoder"] < 0.6 * {stage.name: stage.kept for stage in stages}["decoder"]


def test_a_batch_that_cannot_be_parted_is_named():
    with pytest.raises(ValueError, match=r"batch_size 4 cannot be shared by 1 .* accumulate 8; use a multiple of 8"):
        profile(replace(CONFIG, accumulate=8))


def test_compiled_blocks_are_timed_and_counted_as_they_are_written(stages, monkeypatch):
    frames, real = [], torch.nn.Module.compile

    def spy(graph, inputs):
        frames.append(graph)
        return graph.forward

    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: real(module, backend=spy))
    compiled = profile(replace(CONFIG, compile=True), rounds=1)
    assert len(frames) >= 2  # an encoder's block and a decoder's
    assert [stage.flops for stage in compiled] == [stage.flops for stage in stages]
    assert [stage.kept for stage in compiled] == [stage.kept for stage in stages]


def test_the_table_adds_up():
    table = profile_table([Stage("encoder", 0.1, 10**9, 10**6), Stage("decoder", 0.3, 5 * 10**9, 3 * 10**6)], 8)
    assert "8 images a step, 20.0 images a second" in table
    assert "| encoder | 100.0 | 25% | 1.00 | 10 | 1 |" in table
    assert "| whole step | 400.0 | 100% | 6.00 | 15 | 4 |" in table


def test_the_figure_has_a_bar_for_each_stage(stages):
    times, memory = profile_figure(stages).axes
    assert [label.get_text() for label in times.get_yticklabels()][::-1] == STAGES
    assert [bar.get_width() for bar in memory.patches][::-1] == [stage.kept / 1e6 for stage in stages]


def test_the_command_line_profiles_a_recipe_with_its_options(tmp_path, capsys):
    small = ["--img-size", "32", "--embed-dim", "32", "--depth", "1", "--num-heads", "2", "--decoder-depth", "1"]
    main(["profile", "--out", str(tmp_path / "run"), "--batch-size", "2", *small])
    assert "| whole step |" in capsys.readouterr().out
    assert (tmp_path / "run" / "profile.png").exists()


def test_profiling_leaves_random_numbers_alone():
    state = torch.get_rng_state()
    profile(replace(CONFIG, augment=Augment(jitter=0)), rounds=1)
    assert torch.equal(torch.get_rng_state(), state)
