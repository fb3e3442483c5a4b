"""Training: one loop for every recipe, from the images to a checkpoint."""

import json
import sys
from pathlib import Path

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from maelib import weights
from maelib.augment import to_float
from maelib.cmp import read_photos
from maelib.data import Images, StepSampler, drawn_pool, epoch_indices, split
from maelib.evaluate import HOLES
from maelib.files import write_atomic
from maelib.losses import ReconstructionLoss
from maelib.masking import MASKS, keep_out, mask_from_pixels
from maelib.model import MaskedAutoencoder
from maelib.optim import make_optimizers, rate
from maelib.recipes import TrainConfig
from maelib.runs import check_same_run, load_run, plain, save_run, stop_requests
from maelib.tracking import (
    CsvLog,
    reconstructions,
    save_curves,
    save_reconstructions,
    start_tracker,
    track_images,
)
from maelib.validation import Validation
from maelib.vgg import vgg19

VALIDATION_SEED = 899  # of the drawn pool that no training draws from


def load_images(config: TrainConfig) -> tuple[Images, Images, list[str]]:
    """Training images, drawings last, validation images, and the complaints about skipped files, as configured."""
    size, skipped = config.model.img_size, []
    drawn = config.drawn if config.drawn is not None else (0 if config.data else 20_000)
    if config.data is None:
        if not drawn:
            raise ValueError("drawn 0 and no data folder leave nothing to learn from; give one of them")
        train_images, val_images = drawn_pool(drawn, size), drawn_pool(config.val_images, size, VALIDATION_SEED)
    else:
        images, skipped = read_photos(config.data, size, config.skip_bad)
        train_images, val_images = split(images, config.val_share, config.seed)
        if drawn:
            train_images = train_images + drawn_pool(drawn, size)
    if config.wedges:
        train_images, val_images = (part.with_wedges(config.model.patch_size) for part in (train_images, val_images))
    return train_images, val_images, skipped


def native_bf16(device: torch.device) -> bool:
    """Whether the device computes bf16 products natively, which is where bf16 is the faster precision."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return False


def _accelerator(config: TrainConfig):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()  # an earlier run in this process may have used another precision
    device = Accelerator().device
    bf16 = config.precision == "bf16" or (config.precision == "auto" and native_bf16(device))
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision="bf16" if bf16 else "no", log_with=config.track, project_dir=config.out)


def _loss_function(config: TrainConfig, accelerator) -> ReconstructionLoss:
    """The configured loss; its features compute in the run's precision, on its device."""
    features = None
    if config.perceptual_weight:
        dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
        features = vgg19(config.vgg, config.vgg_layers, dtype).to(accelerator.device)
    weights = config.mse_weight, config.perceptual_weight
    return ReconstructionLoss(config.model, *weights, features, config.all_patches, config.log_mse, config.vgg_window)


def _gradient_norms(terms: dict[str, Tensor], prediction: Tensor) -> dict[str, float]:
    """Euclidean norm of each unweighted term's gradient at the prediction: who pulls how hard."""
    return {
        f"grad_{name}": torch.autograd.grad(term, prediction, retain_graph=True)[0].float().norm().item()
        for name, term in terms.items()
        if name != "loss"
    }


def _augment_and_mask(
    config: TrainConfig, images: Tensor, voids: Tensor | None, generator: Generator
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What a step sees: images `(B, C, H, W)`, their mask `(B, N)`, and the patches `(B, N)` with any void, if any."""
    size, (low, high) = config.model.img_size, config.mask_ratio
    if voids is None:
        images = config.augment(images, size, generator)
    else:
        images, voids = config.augment.with_voids(images, voids, size, generator)
    ratio = low + (high - low) * torch.rand((), generator=generator).item()
    mask = MASKS[config.mask](len(images), config.model.grid_size, ratio, generator).to(images.device)
    if voids is None:
        return images, mask, None
    void = mask_from_pixels(voids, config.model.patch_size)
    kept = keep_out(mask, void)
    return (images, kept, void) if kept.any() else (images, mask, None)  # a crop may have met nothing but void


def train(config: TrainConfig) -> Path:
    """Train a model as `config` says and return the checkpoint it ends with, `config.out / "model.safetensors"`.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C, once the step in work is finished and saved; `resume` goes on from there.
    FileExistsError
        When `config.out` holds a run already and `resume` is not set.
    ValueError, FileNotFoundError
        When data or configuration do not allow training; the message says what to change.
    """
    from tqdm import tqdm

    if config.resume:
        check_same_run(config)
    elif (config.out / "state.safetensors").exists():
        raise FileExistsError(f"{config.out} holds a run already; resume it (--resume) or choose another --out")
    accelerator = _accelerator(config)
    loss_function = _loss_function(config, accelerator)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = MaskedAutoencoder(config.model)
    notes = weights.start_from(model, config.init) if config.init and not config.resume else []
    optimizers = make_optimizers(model, config.optimizer, config.lr, config.weight_decay)
    done, losses = load_run(config, model, optimizers) if config.resume else (0, [])
    if done > config.steps:
        raise ValueError(f"{config.out} is at step {done} already, beyond steps {config.steps}; ask for more steps")
    train_images, val_images, skipped = load_images(config)

    epoch = epoch_indices(len(train_images), config.drawn if config.data and config.drawn else 0, config.data_share)
    sampler = StepSampler(epoch, config.batch_size, config.steps, config.seed, done)
    loader = DataLoader(
        range(len(train_images)), batch_sampler=sampler, collate_fn=train_images.batch, generator=Generator()
    )
    model, loader, *optimizers = accelerator.prepare(model, loader, *optimizers)
    bare = accelerator.unwrap_model(model)
    val_images, val_voids = val_images.batch(list(range(min(len(val_images), config.val_images))))
    val_images = to_float(val_images).to(accelerator.device)
    validation = Validation(val_images, config.model, config.mask, sum(config.mask_ratio) / 2, val_voids)
    log = CsvLog(config.out / "log.csv", done)
    write_atomic(config.out / "config.json", json.dumps(plain(config), indent=2).encode())

    if config.track:
        start_tracker(accelerator, config.track, plain(config), config.out)
    note = getattr(loss_function.features, "note", "")

    total, seen = config.steps * config.batch_size, done * config.batch_size
    with tqdm(total=total, initial=seen, unit="img", unit_scale=True) as bar, stop_requests() as stop:
        for note in notes + [f"skipped: {complaint}" for complaint in skipped]:
            bar.write(note, file=sys.stderr)
        for images, voids in loader:
            generator = Generator().manual_seed(config.seed * 1_000_003 + done)  # as if never interrupted
            images, mask, void = _augment_and_mask(config, images, voids, generator)
            prediction = model(images, mask)
            terms = loss_function(prediction, images, mask, void)
            at_log = (done + 1) % config.eval_every == 0 or done + 1 == config.steps
            gradients = _gradient_norms(terms, prediction) if at_log and config.perceptual_weight else {}
            accelerator.backward(terms["loss"])
            share = rate(done, config.steps, config.warmup)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = config.lr * share
                optimizer.step()
                optimizer.zero_grad()
            names = list(terms) if config.perceptual_weight else ["loss"]
            losses.append(torch.stack([terms[name].detach() for name in names]))
            done += 1
            bar.update(len(images))
            if at_log:
                row = {"step": done, "lr": config.lr * share}
                for name, values in zip(names, torch.stack(losses).unbind(dim=1), strict=True):
                    row[f"train_{name}"] = values.mean().item()
                losses = []
                log.add(row | gradients | validation(model, loss_function))
                bar.set_postfix({name: f"{value:.3g}" for name, value in log.rows[-1].items() if "psnr" in name})
                save_run(config, bare, optimizers, done, losses)
                if config.track:
                    accelerator.log(log.rows[-1], step=done)
                    first = validation.images[:6], validation.masks["block 25%"][:6]
                    track_images(accelerator, reconstructions(bare, *first, note), done)
            if stop.is_set():
                break
        if done < config.steps:
            save_run(config, bare, optimizers, done, losses)
            bar.write(
                f"stopped after {done} steps; go on with: maelib train --resume --out {config.out}", file=sys.stderr
            )
    if log.rows:
        save_curves(log.rows, config.out / "curves.png")
    for name in HOLES:
        path = config.out / f"repairs-{name.replace(' ', '-').replace('%', '')}.png"
        save_reconstructions(reconstructions(bare, validation.images[:6], validation.masks[name][:6], note), path)
    if config.track:
        accelerator.end_training()
    if done < config.steps:
        raise KeyboardInterrupt
    return config.out / "model.safetensors"
