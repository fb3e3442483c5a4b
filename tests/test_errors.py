"""Wrong arguments are refused by name, value and cure: one table for the whole library."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import TINY

from maelib.facades import draw_facade, draw_images
from maelib.losses import ReconstructionLoss, masked_mse
from maelib.masking import MASKS, block_mask, split_ids
from maelib.metrics import hole_psnr, hole_sharpness, hole_ssim
from maelib.model import MAEConfig
from maelib.patches import patchify, rotary_angles, sincos_positions, unpatchify
from maelib.perceptual import VGG19, vgg19
from maelib.plots import show_images
from maelib.repair.evaluate import evaluate
from maelib.repair.photo import repair_photo
from maelib.transfer.compare import FinetuneConfig, random_weights
from maelib.weights import bundled_checkpoint

MODEL, IMAGES, MASK = random_weights(TINY, 0), torch.zeros(1, 3, 32, 32), torch.arange(16)[None] < 8
PHOTO, HOLE = np.zeros((32, 32, 3), np.uint8), np.eye(32, dtype=bool)
GAP = torch.from_numpy(HOLE)[None]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        # patches
        (lambda: patchify(torch.rand(1, 3, 32, 225), 16), "img_size 225 .* patch_size 16; use 224 or 240"),
        (lambda: patchify(torch.rand(1, 3, 32, 8), 16), "img_size 8 .* patch_size 16; use 16"),
        (lambda: patchify(torch.rand(1, 3, 32, 32), 0), "patch_size 0 is below 1"),
        (lambda: patchify(torch.rand(3, 8, 8), 4), r"\(3, 8, 8\), expected \(B, C, H, W\)"),
        (lambda: unpatchify(torch.rand(1, 5, 12), 2, (2, 3)), "5 patches do not fill a grid of 2 x 3 = 6"),
        (lambda: unpatchify(torch.rand(1, 6, 13), 2, (2, 3)), "13 values does not hold 2 x 2 pixels"),
        (lambda: sincos_positions((2, 2), 6), "dim 6 .* use 8"),
        (lambda: rotary_angles((2, 2), 10), "head_dim 10 is not a multiple of 4"),
        # masks
        (lambda: block_mask(1, (2, 2), 1.0), "mask_ratio 1.0 of 4 patches hides none or all; use .* between 0.25"),
        (lambda: block_mask(1, (2, 2), math.nan), "mask_ratio nan"),
        (lambda: MASKS["square"](1, (8, 8), -0.5), "mask_ratio -0.5"),
        (lambda: MASKS["grid"](1, (1, 1), 0.5), "mask_ratio 0.5 of 1 patches"),
        (lambda: split_ids(torch.tensor([[False, True], [True, True]])), "row 1 of the mask hides all 2 patches"),
        # models
        (lambda: MAEConfig(img_size=65), "img_size 65 .* use 64 or 72"),
        (lambda: MAEConfig(embed_dim=130, rotary=False), "embed_dim 130 is not a multiple of 4, .* use 128"),
        (lambda: MAEConfig(embed_dim=40), "embed_dim 40 is not a multiple of 16, .*rotary.* use 32"),
        (lambda: MAEConfig(decoder_num_heads=0), "decoder_num_heads 0: use 1 or more"),
        (lambda: MAEConfig(mlp_ratio=math.nan), "mlp_ratio nan"),
        (lambda: MAEConfig(positions="rope"), "positions 'rope' .* use 'sincos' or 'learned'"),
        (lambda: MODEL(IMAGES.byte(), MASK), "torch.uint8 .* / 255"),
        (lambda: MODEL(IMAGES[:, :1], MASK), r"\(B, 3, H, W\)"),
        (lambda: MODEL.reconstruct(IMAGES[0], MASK), r"\(3, 32, 32\), expected"),
        (lambda: MODEL(IMAGES, MASK[:, :12]), r"\(1, 12\), expected bool \(1, 16\)"),
        (lambda: MODEL(IMAGES, MASK.float()), "mask is torch.float32"),
        # losses
        (lambda: masked_mse(torch.zeros(1, 4, 3), torch.zeros(1, 4, 12), None), r"prediction \(1, 4, 3\) and target"),
        (lambda: masked_mse(*torch.zeros(2, 1, 4, 3), torch.zeros(1, 4, dtype=torch.bool)), "hides no patch"),
        (lambda: ReconstructionLoss(TINY, -1.0), "mse_weight -1.0"),
        (lambda: ReconstructionLoss(TINY, 0.0, 0.0), "one of them above 0"),
        (lambda: ReconstructionLoss(TINY, math.nan), "mse_weight nan"),
        (lambda: ReconstructionLoss(TINY, 0.6, 0.4, list, log_mse=True), "perceptual_weight 0.4 .*log_mse"),
        (lambda: ReconstructionLoss(TINY, 0.6, 0.4), "perceptual_weight 0.4 need features"),
        (lambda: ReconstructionLoss(replace(TINY, norm_pix=True), 0.6, 0.4, list), "norm_pix predicts none"),
        (lambda: VGG19(("relu2_3",)), "relu2_3.* not layers of VGG19; use some of relu1_1, "),
        (lambda: VGG19(()), r"layers \(\) are not"),
        (lambda: vgg19("imagnet"), "imagnet does not hold .* use one of .*'normalised', 'imagenet'.*'random'"),
        (lambda: vgg19(__file__), r"test_errors\.py does not hold VGG19's weights for .*relu3_1"),
        (lambda: vgg19(str(bundled_checkpoint())), r"\.safetensors does not hold VGG19"),
        # metrics
        (lambda: hole_psnr(IMAGES[:, :, 1:], IMAGES, GAP), r"prediction \(1, 3, 31, 32\) and target \(1, 3, 32, 32\)"),
        (lambda: hole_ssim(IMAGES[0], IMAGES[0], GAP), r"\(3, 32, 32\); pass float \(B, C, H, W\)"),
        (lambda: hole_sharpness(IMAGES[:0], IMAGES[:0], GAP[:0]), r"pass float \(B, C, H, W\)"),
        (lambda: hole_psnr(IMAGES.byte(), IMAGES.byte(), GAP), r"torch.uint8 .* images.float\(\) / 255"),
        (lambda: hole_ssim(IMAGES, IMAGES, GAP[:, 1:]), r"hole is torch.bool \(1, 31, 32\).*\(1, 32, 32\)"),
        (lambda: hole_sharpness(IMAGES, IMAGES, GAP.float()), "hole is torch.float32"),
        (lambda: hole_psnr(IMAGES, IMAGES, GAP & False), r"empty in rows \[0\]"),
        (lambda: hole_ssim(IMAGES + 255, IMAGES, GAP), "prediction range from .* far outside"),
        (lambda: hole_sharpness(IMAGES, IMAGES * math.nan, GAP), "target range from nan to nan"),
        (lambda: evaluate({}, IMAGES, 7), "img_size 32 is not a multiple of patch_size 7"),
        (lambda: evaluate({}, IMAGES, 8, GAP & False), "touches every patch of 8 px of image 0; crop or remove"),
        # drawings
        (lambda: draw_facade(-1), "seed -1 is negative; use one from 0"),
        (lambda: draw_facade(1.5), "seed 1.5 is not a whole number; use one from 0"),
        (lambda: draw_facade(0, 31), "size 31 is outside 32 to 1024 px; use 32"),
        (lambda: draw_facade(0, (64, 2000)), r"size \(64, 2000\) is outside 32 to 1024 px; use 1024"),
        (lambda: draw_facade(0, (64,)), r"size \(64,\) has 1 numbers; use one side or \(height, width\)"),
        (lambda: draw_facade(0, 64.0), "size 64.0 is not a whole number or a pair of them; use 224"),
        (lambda: draw_images([], (64, "64")), "is not a whole number or a pair of them"),
        # repairs
        (lambda: repair_photo(PHOTO / 255, HOLE, MODEL), r"float64 of shape \(32, 32, 3\); use uint8"),
        (lambda: repair_photo(PHOTO, HOLE[:, 1:], MODEL), r"\(32, 31\), the photo of \(32, 32\)"),
        (lambda: repair_photo(PHOTO, HOLE & False, MODEL), "nothing is hidden"),
        (lambda: repair_photo(PHOTO, HOLE | True, MODEL), "everything is hidden"),
        (lambda: repair_photo(PHOTO, HOLE, MODEL, ~HOLE), "everything is hidden"),
        (lambda: repair_photo(PHOTO, HOLE, MODEL, detail=1.5), r"detail 1\.5 is not a share; use 0"),
        (lambda: repair_photo(PHOTO, HOLE, "magic"), r"'magic' is not known; use a model or one of mean_fill, "),
        # pictures
        (lambda: show_images([[]]), "empty"),
        (lambda: show_images([IMAGES[0]]), r"Tensor torch.float32 .*\[32, 32\]"),
        (lambda: show_images([IMAGES.byte()]), "Tensor torch.uint8 .* use a float tensor"),
        (lambda: show_images([[PHOTO / 255]]), "ndarray float64"),
        (lambda: show_images([["facade.png"]]), "a picture is a str"),
        # few labels
        (lambda: FinetuneConfig("style", labels=0), "labels 0 .*; use 60"),
        (lambda: FinetuneConfig("style", labels=3001), "labels 3001 .* at most 3000"),
        (lambda: FinetuneConfig("style", seeds=101), "seeds 101 .* at most 100"),
        (lambda: FinetuneConfig("style", lr=math.nan), r"lr nan .*; use 0\.003"),
    ],
)
def test_a_wrong_argument_is_named_with_its_cure(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()
