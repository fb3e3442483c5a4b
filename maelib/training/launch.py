"""What a run computes on: device, precision, and the processes that share it."""

import os
import warnings
from typing import TYPE_CHECKING

import torch

from maelib.training.recipes import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


def native_bf16(device: torch.device) -> bool:
    """Whether the device computes bf16 products natively, which makes bf16 the faster precision there."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.9 has no such function: float32
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return False


def make_accelerator(config: TrainConfig) -> "Accelerator":
    """Device, precision, processes, accumulation and tracker of a run, as configured or as its launcher asks."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    for name in ("FSDP", "DEEPSPEED"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in ("1", "true", "yes"):
            raise ValueError(f"the launcher asks for {name}, which maelib does not support; launch without it")
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    launched, auto = int(os.environ.get("WORLD_SIZE", 1)), os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    precision = {"auto": auto, "float32": "no"}.get(config.precision, config.precision)
    if auto not in ("no", precision):
        warnings.warn(f"--precision {config.precision} overrides the launcher's {auto}", stacklevel=2)
    if config.precision == "auto" and auto == "no":
        precision = "bf16" if native_bf16(device) else "fp16" if device.type == "cuda" else "no"
    if precision == "fp16" and device.type != "cuda":
        raise ValueError(
            f"precision fp16 needs a CUDA GPU, and this run computes on {device.type}; use bf16 or float32"
        )
    AcceleratorState._reset_state()  # an earlier run in this process may have used another precision
    accelerator = Accelerator(
        mixed_precision=precision,
        cpu=launched > 1 and device.type in ("cpu", "mps"),  # torchrun alone would leave each process on its own
        gradient_accumulation_steps=config.accumulate,
        log_with=config.track,
        project_dir=config.out,
    )
    parts = accelerator.num_processes * config.accumulate
    if config.batch_size % parts:
        raise ValueError(
            f"batch_size {config.batch_size} cannot be divided into {parts} parts; use a multiple of {parts}"
        )
    return accelerator
