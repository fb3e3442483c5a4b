"""Training: one readable loop, from images to a checkpoint, in one process or several."""

import math
from functools import partial
from pathlib import Path

import torch
from torch import Generator, Tensor
from torch.utils.data import ConcatDataset, Dataset

from maelib.data.images import DrawnImages, FolderImages, StepSampler, ahead, epoch_indices, prefetch, split
from maelib.losses import ReconstructionLoss
from maelib.masking import MASKS, exclude_patches, mask_from_pixels
from maelib.model import MaskedAutoencoder
from maelib.perceptual import vgg19
from maelib.training.launch import make_accelerator
from maelib.training.log import read_log, reconstructions, save_figures, start_tracker, track_images, write_log
from maelib.training.optim import lr_scale, make_optimizers, take_step
from maelib.training.recipes import TrainConfig
from maelib.training.resume import check_same_run, last_good, load_run, save_run, stop_requests, write_config
from maelib.training.validation import Validation
from maelib.weights import start_from

VALIDATION_SEED = 899  # of the drawn facades that no training uses


def load_images(config: TrainConfig) -> tuple[Dataset, Dataset]:
    """Training images, drawings last, and validation images; both have `names`."""
    size = config.model.img_size
    drawn = config.drawn if config.drawn is not None else 0 if config.data else 20_000
    if config.data is None:
        return DrawnImages(drawn, size), DrawnImages(config.val_images, size, VALIDATION_SEED)
    folder = FolderImages(config.data, size, config.skip_bad, config.border_fill)
    train, val = split(folder, config.val_share, config.seed, config.val_images)
    if drawn:
        parts = [train, DrawnImages(drawn, size)]
        train = ConcatDataset(parts)
        train.names = parts[0].names + parts[1].names
    return train, val


def draw_views(config: TrainConfig, step: int, part: slice = slice(None)) -> tuple[dict[str, Tensor], Tensor]:
    """Random numbers of a step's augmentation, `(n, b)` each, and its masks `(b, N)`, for a `part` of the batch.

    They are drawn for the whole batch and follow from seed and step. So they do not depend on how many processes share
    the batch, and a run that resumes sees what it would have seen.
    """
    generator = Generator().manual_seed(config.seed * 1_000_003 + step)
    drawn = config.augment.draw(config.batch_size, generator)
    low, high = config.mask_ratio
    ratio = low + (high - low) * torch.rand((), generator=generator).item()
    mask = MASKS[config.mask](config.batch_size, config.model.grid_size, ratio, generator)[part]
    return {name: numbers[:, part] for name, numbers in drawn.items()}, mask


def make_views(config: TrainConfig, images: Tensor, drawn: tuple[dict[str, Tensor], Tensor]) -> tuple[Tensor, ...]:
    """What the model sees in a step: augmented images, their masks, and how many patches each mask was to hide.

    Takes RGBA `images` `(b, 4, H, W)` uint8 and what `draw_views` has `drawn` for them; returns floats
    `(b, 3, size, size)` in [0, 1], masks `(b, N)` bool, and counts `(b,)`, all on the device of the images.
    """
    numbers, mask = drawn[0], drawn[1].to(images.device)
    images, valid = config.augment.apply(images, config.model.img_size, numbers)
    return images, exclude_patches(mask, mask_from_pixels(~valid, config.model.patch_size)), mask.sum(dim=1)


def train(config: TrainConfig) -> Path:
    """Train a model as `config` says and return its last checkpoint, `config.out / "model.safetensors"`.

    Under `accelerate launch`, `torchrun` or accelerate's `notebook_launcher`, each process takes its part of every
    batch, and the result is what one process would learn.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, once the current step is finished and saved; `resume` continues from there.
    FileExistsError
        When `config.out` already holds a run and `resume` is not set.
    FloatingPointError
        When the loss is not finite.
    OSError
        When a checkpoint cannot be written; the one before it stays whole.
    ValueError, FileNotFoundError
        When data or configuration do not allow training; the message says what to change.
    """
    from tqdm import tqdm

    check_same_run(config)
    accelerator = make_accelerator(config)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        bare = MaskedAutoencoder(config.model)
    if config.init and not config.resume:
        start_from(bare, config.init)
    for block in (*bare.blocks, *bare.decoder_blocks) if config.compile else ():
        block.compile()
    model = accelerator.prepare(bare)
    optimizers = make_optimizers(bare, config.optimizer, config.lr, config.weight_decay)
    scaler = accelerator.scaler  # None but in fp16
    features = None
    with accelerator.local_main_process_first():  # the others find in the cache what it fetches or draws
        if config.perceptual_weight:
            dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision, torch.float32)
            features = vgg19(config.vgg, config.vgg_layers, dtype).to(accelerator.device)
        images, val_images = load_images(config)
    loss_of = ReconstructionLoss(
        config.model, config.mse_weight, config.perceptual_weight, features, config.log_mse, config.vgg_window
    )
    validation = Validation(val_images, config, accelerator.device)
    skipped, (step, losses) = 0, load_run(config, bare, optimizers, scaler) if config.resume else (0, [])
    rows = [row for row in read_log(config.out / "log.csv") if row["step"] <= step]
    if accelerator.is_main_process:
        write_config(config)
    if config.track:
        start_tracker(accelerator, config)

    share = config.batch_size // accelerator.num_processes
    mine = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    epoch = epoch_indices(len(images), config.drawn or 0 if config.data else 0, 0.5)  # folder and drawings by halves
    sampler = StepSampler(epoch, config.batch_size, config.steps, config.seed, step, mine)
    total, seen = config.steps * config.batch_size, step * config.batch_size
    bar = tqdm(total=total, initial=seen, unit="img", unit_scale=True, disable=not accelerator.is_main_process)
    with bar, stop_requests() as stop:
        drawn = ahead(partial(draw_views, config, part=mine), range(step, config.steps), threads=2)
        for (indices, batch), numbers in zip(prefetch(images, sampler), drawn, strict=True):
            views = make_views(config, batch.to(accelerator.device, non_blocking=True), numbers)
            terms = []
            for x, mask, count in zip(*(view.chunk(config.accumulate) for view in views), strict=True):
                with accelerator.accumulate(model):
                    part = loss_of(model(x, mask), x, mask, count.sum())
                    accelerator.backward(part["loss"])
                terms.append(torch.stack([part[name].detach() for name in loss_of.names]))
            terms = torch.cat([torch.stack(terms).mean(0), terms[0].new_tensor([stop.is_set()])])
            *values, stopping = accelerator.reduce(terms, "mean").tolist()
            if not all(map(math.isfinite, values)):
                fault = f"step {step + 1}: the loss is not finite ({', '.join(f'{value:.3g}' for value in values)})"
                names = ", ".join(images.names[i] for i in indices)
                raise FloatingPointError(f"{fault}. Its images: {names}. {last_good(config)}")
            losses.append(values)
            lr = config.lr * lr_scale(step, config.steps, config.warmup)
            skipped += take_step(optimizers, lr, scaler)
            step += 1
            bar.update(config.batch_size)
            if step % config.eval_every == 0 or step == config.steps:
                means = torch.tensor(losses).mean(0).tolist()
                row = {"step": step, "lr": lr}
                row |= {f"train_{name}": mean for name, mean in zip(loss_of.names, means, strict=True)}
                row |= ({"skipped": skipped} if scaler else {}) | validation(bare, loss_of)
                if not math.isfinite(row["val_loss"]):
                    raise FloatingPointError(f"step {step}: the validation loss is not finite. {last_good(config)}")
                best = row["val_loss"] < min((other["val_loss"] for other in rows), default=math.inf)
                rows.append(row)
                if accelerator.is_main_process:
                    write_log(config.out / "log.csv", rows)
                losses, skipped = [], 0
                bar.set_postfix({name: f"{value:.3g}" for name, value in row.items() if "psnr" in name})
                if config.track:
                    accelerator.log(row, step=step)
                    track_images(accelerator, reconstructions(bare, validation, "block 25%"), step)
            if accelerator.is_main_process and (not losses or stopping):
                save_run(config, bare, optimizers, scaler, step, losses, not losses and best)
            if stopping and step < config.steps:
                raise KeyboardInterrupt
    if accelerator.is_main_process:
        save_figures(config.out, rows, bare, validation)
    accelerator.end_training()
    return config.out / "model.safetensors"
