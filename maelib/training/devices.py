"""What a run computes on, and how several processes share its batches and its model."""

import os
from typing import TYPE_CHECKING

import torch
from torch import nn

from maelib.model import MaskedAutoencoder
from maelib.training.recipes import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


def native_bf16(device: torch.device) -> bool:
    """Whether the device computes bf16 products natively, which is where bf16 is the faster precision."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.9 does not tell: float32
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return False


def make_accelerator(config: TrainConfig) -> "Accelerator":
    """Device, precision, processes and tracker of a run, as configured or as its launcher says.

    Raises
    ------
    ValueError
        When the launcher asks for accelerate's own FSDP: its settings are not read here.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true", "yes"):
        raise ValueError(
            "accelerate is told to use its own FSDP (ACCELERATE_USE_FSDP; --use_fsdp, or its configuration file); "
            "launch without it and let maelib share the model out (--shard)"
        )
    AcceleratorState._reset_state()  # an earlier run in this process may have used another precision
    device = Accelerator().device
    bf16 = config.precision == "bf16" or (config.precision == "auto" and native_bf16(device))
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision="bf16" if bf16 else "no", log_with=config.track, project_dir=config.out)


def compile_blocks(model: MaskedAutoencoder) -> None:
    """Have the blocks of `model` compiled when they are first called.

    They are alike, so that one of the encoder and one of the decoder is work for the compiler, the others find theirs
    done.
    """
    for block in (*model.blocks, *model.decoder_blocks):
        block.compile()


def prepare_model(model: MaskedAutoencoder, accelerator: "Accelerator", config: TrainConfig) -> nn.Module:
    """Put `model` on the device in the run's precision: in each process all of it or, with `shard`, a share (FSDP2).

    Parameters that are shared are DTensors, of which a process holds its rows, and a block is whole only while it
    computes. Optimisers are to be made of these, and all processes are to call the model equally often.
    """
    if config.compile:
        compile_blocks(model)
    if not config.shard or accelerator.num_processes == 1:
        return accelerator.prepare(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for module in (*model.blocks, *model.decoder_blocks, model):
        fully_shard(module, mesh=mesh)
    return accelerator.prepare_model(model, evaluation_mode=True)  # the precision alone: no copies to keep equal


def batch_parts(config: TrainConfig, processes: int, rank: int) -> list[slice]:
    """Which images of every batch a process takes, one slice for each of its forward passes."""
    parts = processes * config.accumulate
    if config.batch_size % parts:
        raise ValueError(
            f"batch_size {config.batch_size} cannot be shared by {processes} process(es) with accumulate "
            f"{config.accumulate}; use a multiple of {parts}"
        )
    size = config.batch_size // parts
    first = rank * config.accumulate
    return [slice(i * size, (i + 1) * size) for i in range(first, first + config.accumulate)]
