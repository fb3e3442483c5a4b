"""Optimisers: the learning rate over a run, which parameters decay, and who trains what."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer


def lr_scale(step: int, steps: int, warmup: float) -> float:
    """Share of the highest learning rate at a step: a linear rise to 1, then a cosine towards 0."""
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


def parameter_groups(model: nn.Module) -> dict[str, list[Tensor]]:
    """Trainable parameters by treatment: the blocks' `hidden` matrices, other `matrices`, the undecayed `rest`."""
    groups = {"hidden": [], "matrices": [], "rest": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            if parameter.ndim < 2 or "token" in name or "pos_embed" in name:
                groups["rest"].append(parameter)
            else:
                groups["hidden" if "blocks." in name else "matrices"].append(parameter)
    return groups


def make_optimizers(
    model: nn.Module, name: Literal["muon", "adamw"], lr: float, weight_decay: float
) -> list[Optimizer]:
    """AdamW (Loshchilov and Hutter 2019) for all, or Muon (Jordan et al. 2024) for the blocks' matrices beside it.

    Muon's steps are scaled to AdamW's size (Liu et al. 2025, section 2.2), so that one learning rate serves both.
    """
    groups, optimizers = parameter_groups(model), []
    decayed = groups["matrices"]
    if name == "muon":
        muon = torch.optim.Muon(groups["hidden"], lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        optimizers.append(muon)
    else:
        decayed = decayed + groups["hidden"]
    plain = [{"params": decayed}, {"params": groups["rest"], "weight_decay": 0.0}]
    optimizers.append(torch.optim.AdamW(plain, lr=lr, weight_decay=weight_decay))
    return optimizers


def take_step(optimizers: list[Optimizer], lr: float, scaler: GradScaler | None = None) -> bool:
    """Take a step with learning rate `lr` and clear the gradients; return whether fp16 made an optimizer skip it.

    In fp16 small gradients would vanish, so the loss is multiplied by the scaler's factor, which is taken out again
    here (P. Micikevicius et al. 2018, section 3.2). Where a gradient is not finite, the step is skipped and the factor
    halved.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr
        scaler.step(optimizer) if scaler else optimizer.step()
        optimizer.zero_grad()
    if scaler is None:
        return False
    before = scaler.get_scale()
    scaler.update()
    return scaler.get_scale() < before
