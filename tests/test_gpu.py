"""On a GPU the same comes out as on a CPU, within each precision's rounding; skipped where there is none."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import tiny_run

from maelib.facades import draw_images
from maelib.losses import ReconstructionLoss
from maelib.masking import block_mask
from maelib.model import CONFIGS, MaskedAutoencoder
from maelib.repair.photo import repair_photo
from maelib.training.log import read_log
from maelib.training.train import train
from maelib.weights import bundled_checkpoint, load_model, load_tensors

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
ROUNDING = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}  # of a gradient, relative to its norm


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_forward_loss_and_gradient_equal_those_of_the_cpu(dtype):
    torch.manual_seed(0)
    model = MaskedAutoencoder(CONFIGS["facade_tiny"])
    images, mask = torch.rand(8, 3, 64, 64), block_mask(8, (8, 8), 0.5, torch.Generator().manual_seed(1))
    results = []
    for device, enabled in (("cpu", False), ("cuda", dtype != torch.float32)):
        model, x, hidden = model.to(device), images.to(device), mask.to(device)
        with torch.autocast(device, dtype, enabled=enabled):
            prediction = model(x, hidden).float()
        loss = ReconstructionLoss(model.config)(prediction, x, hidden)["loss"]
        model.zero_grad()
        (loss * 2.0**12).backward()  # as training scales it in fp16, where small gradients would vanish
        gradient = torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]) / 2.0**12
        results.append((prediction.detach().cpu(), loss.detach().cpu(), gradient))
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).norm() <= ROUNDING[dtype] * ours.norm()


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_twenty_steps_learn_what_the_cpu_learns(precision, tmp_path):
    options = "--img-size 32 --drawn 40 --val-images 8 --steps 20 --eval-every 20 --batch-size 4 --lr 1e-3"
    for out, hidden, chosen in (("gpu", {}, precision), ("cpu", {"CUDA_VISIBLE_DEVICES": ""}, "float32")):
        command = [sys.executable, "-m", "maelib", "train", *options.split(), "--precision", chosen]
        subprocess.run([*command, "--out", tmp_path / out], env=os.environ | hidden, check=True)
    gpu, cpu = (read_log(tmp_path / name / "log.csv")[-1] for name in ("gpu", "cpu"))
    assert gpu["val_loss"] == pytest.approx(cpu["val_loss"], rel=0.05)
    assert ("skipped" in gpu) == (precision == "fp16")


@pytest.mark.parametrize("options", [{}, {"compile": True}, {"precision": "fp16"}], ids=str)
def test_a_resumed_run_continues_as_if_it_had_not_stopped(options, tmp_path):
    config = replace(tiny_run(None, tmp_path / "whole"), drawn=40, val_images=8, steps=8, eval_every=4, **options)
    whole = load_tensors(train(config))[0]
    train(replace(config, out=tmp_path / "parts", steps=8))
    for name in ("state.safetensors", "model.safetensors", "best.safetensors"):
        (tmp_path / "parts" / name).unlink(missing_ok=True)  # leaves the state of step 4
    parts = load_tensors(train(replace(config, out=tmp_path / "parts", resume=True)))[0]
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-2, atol=1e-3)  # sums on a GPU have no fixed order


def test_a_photo_is_repaired_as_on_the_cpu():
    photo, hole = draw_images([0], 224)[0], np.zeros((224, 224), bool)
    hole[80:150, 60:140] = True
    model = load_model(bundled_checkpoint())
    cpu, gpu = (repair_photo(photo, hole, model.to(device)).astype(float) for device in ("cpu", "cuda"))
    assert np.square(cpu - gpu)[hole].mean() < 255**2 / 1000  # 30 dB
