"""Training: one configuration, one loop, everything a run leaves behind."""

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader

from maelib import checkpoint, weights
from maelib.augment import Augment, to_float
from maelib.cmp import read_photos
from maelib.data import Images, StepSampler, drawn_pool, epoch_indices, split
from maelib.evaluate import HOLES
from maelib.files import write_atomic
from maelib.losses import ReconstructionLoss
from maelib.masking import MASKS, hidden_count, keep_out, mask_from_pixels
from maelib.model import CONFIGS, MAEConfig, MaskedAutoencoder
from maelib.optim import make_optimizers, rate
from maelib.tracking import CsvLog, save_curves, save_reconstructions
from maelib.validation import Validation
from maelib.vgg import LAYERS, vgg19
from maelib.vgg_weights import WEIGHTS

VALIDATION_SEED = 899  # of the drawn pool that no training draws from


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run. The defaults train `facade_tiny` in a few minutes on two cores."""

    out: Path = Path("runs/facade_tiny")
    """folder of the run: model.safetensors, state.safetensors, log.csv, config.json, curves and repairs as PNG"""
    model: MAEConfig = CONFIGS["facade_tiny"]
    """shape of the model"""
    init: Path | None = None
    """weights to start from instead of random ones: a checkpoint of the same shape, any size of image and patch, or
    for --recipe vit_base, vit_large or vit_huge a published file: the MAE authors' .pth, timm's, Hugging Face's"""
    data: Path | None = None
    """folder of .npy arrays and photos to learn from; without one, drawn facades are used"""
    drawn: int | None = None
    """facades to draw into the training pool; by default 20000 without a folder, 0 with one"""
    data_share: float = 0.5
    """where a folder and drawings are mixed, the folder's share of the images seen"""
    val_share: float = 0.2
    """share of the folder's files kept for validation"""
    skip_bad: bool = False
    """list bad files and leave them out instead of stopping at the first"""
    wedges: bool = True
    """look for the flat wedges that rectification leaves and keep them out of masks and losses"""
    augment: Augment = field(default_factory=Augment)
    """random changes of the training images"""
    steps: int = 3500
    """optimiser steps"""
    batch_size: int = 32
    """images a step"""
    mask: Literal["random", "block", "multi_block", "grid", "square", "mixed"] = "mixed"
    """which patches to hide"""
    mask_ratio: tuple[float, float] = (0.25, 0.75)
    """share of patches to hide, drawn anew for each step between these two"""
    mse_weight: float = 1.0
    """weight of the masked squared error"""
    perceptual_weight: float = 0.0
    """weight of the perceptual loss"""
    vgg: str = "normalised"
    """VGG19 weights of the perceptual loss: normalised, imagenet, random, or a file in torchvision's layout"""
    vgg_layers: tuple[str, ...] = LAYERS
    """maps that it compares"""
    all_patches: bool = False
    """count visible patches in the squared error as well"""
    log_mse: bool = False
    """minimise the logarithm of each image's squared error, so that faint facades count as much as strong ones"""
    optimizer: Literal["muon", "adamw"] = "muon"
    """muon: Muon for the blocks' matrices, AdamW for the rest; adamw: AdamW for all"""
    lr: float = 4e-3
    """highest learning rate, reached at the end of the warm-up"""
    weight_decay: float = 0.01
    """for matrices only: norms, biases, tokens and positions are never decayed"""
    warmup: float = 0.05
    """share of the steps over which the rate rises"""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """auto: bf16 where the device computes it natively"""
    seed: int = 0
    """of weights, order, masks and augmentation"""
    eval_every: int = 500
    """steps between validations, log rows and checkpoints"""
    val_images: int = 128
    """most images to validate on"""
    resume: bool = False
    """go on from the run's last checkpoint"""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_every", "val_images", "lr"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} {getattr(self, name)} is not positive; use more than 0")
        if not 0 < self.data_share < 1:
            raise ValueError(
                f"data_share {self.data_share} mixes nothing; use a share above 0 and below 1, such as 0.5"
            )
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup {self.warmup} is no share of the steps; use 0 to below 1, such as 0.05")
        if not self.mask_ratio[0] <= self.mask_ratio[1]:
            raise ValueError(f"mask_ratio {self.mask_ratio} runs backwards; put the lower ratio first")
        for ratio in self.mask_ratio:
            hidden_count(self.model.grid_size, ratio)


RECIPES: dict[str, TrainConfig] = {
    "facade_tiny": TrainConfig(),
    "facade_small": TrainConfig(
        out=Path("runs/facade_small"), model=CONFIGS["facade_small"], steps=6000, batch_size=64, log_mse=True
    ),
    "facade_base": TrainConfig(
        out=Path("runs/facade_base"),
        model=CONFIGS["facade_base"],
        augment=Augment(rotation=10.0, scale=(0.8, 1.0), jitter=0.2),
        steps=100_000,
        batch_size=16,
        mask="block",
        mask_ratio=(0.5, 0.5),
        mse_weight=0.6,
        perceptual_weight=0.4,
        optimizer="adamw",
        lr=3e-4,
    ),
} | {
    name: TrainConfig(
        out=Path(f"runs/{name}"),
        model=replace(CONFIGS[name], norm_pix=False),  # a repair needs pixels, as mae_visualize_*.pth predict them
        steps=5000,
        optimizer="adamw",
        lr=1e-4,
        weight_decay=0.05,
        eval_every=250,
    )
    for name in ("vit_base", "vit_large", "vit_huge")
}


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
    return Accelerator(mixed_precision="bf16" if bf16 else "no")


def _loss_function(config: TrainConfig, accelerator) -> ReconstructionLoss:
    """The configured loss; its features compute in the run's precision, on its device."""
    features = None
    if config.perceptual_weight:
        dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
        features = vgg19(config.vgg, config.vgg_layers, dtype).to(accelerator.device)
    return ReconstructionLoss(
        config.model, config.mse_weight, config.perceptual_weight, features, config.all_patches, config.log_mse
    )


def _gradient_norms(terms: dict[str, Tensor], prediction: Tensor) -> dict[str, float]:
    """Euclidean norm of each unweighted term's gradient at the prediction: who pulls how hard."""
    return {
        f"grad_{name}": torch.autograd.grad(term, prediction, retain_graph=True)[0].float().norm().item()
        for name, term in terms.items()
        if name != "loss"
    }


def _save(config: TrainConfig, model: MaskedAutoencoder, optimizers: list, step: int, losses: list[Tensor]) -> None:
    """Write the model, and beside it what resuming needs."""
    state = {
        f"{i}.{j}.{name}": torch.as_tensor(value)
        for i, optimizer in enumerate(optimizers)
        for j, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }
    about = {"step": step, "losses": [loss.tolist() for loss in losses]}  # losses that no log row holds yet
    checkpoint.save_tensors(config.out / "state.safetensors", {**state, **_named(model)}, about)
    told = {
        name: value for name, value in _plain(config).items() if name not in ("out", "init", "data", "resume")
    }  # no paths
    told["vgg"] = config.vgg if config.vgg in (*WEIGHTS, "random") else Path(config.vgg).name
    checkpoint.save_model(config.out / "model.safetensors", model, {"step": step, "training": told})


def _named(model: MaskedAutoencoder) -> dict[str, Tensor]:
    return {f"model.{name}": tensor for name, tensor in model.state_dict().items()}


def _load(config: TrainConfig, model: MaskedAutoencoder, optimizers: list) -> tuple[int, list[Tensor]]:
    """Put model and optimisers back to the run's last checkpoint; returns its step and the terms not yet logged."""
    tensors, about = checkpoint.load_tensors(config.out / "state.safetensors")
    model.load_state_dict({name: tensors.pop(f"model.{name}") for name in model.state_dict()})
    for i, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            owner, parameter, name = key.split(".", 2)
            if int(owner) == i:
                state.setdefault(int(parameter), {})[name] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return about["step"], [torch.tensor(loss).reshape(-1) for loss in about["losses"]]


def _plain(config: TrainConfig) -> dict:
    """The configuration as JSON holds it."""
    return json.loads(json.dumps(asdict(config), default=str))


def read_config(run: Path) -> TrainConfig:
    """The configuration that the run in the folder `run` was started with.

    Raises
    ------
    FileNotFoundError
        When there is no such run.
    """
    path = Path(run) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; start a run there before resuming it")
    told = json.loads(path.read_text(encoding="utf-8"))
    model, augment = MAEConfig(**told.pop("model")), told.pop("augment")
    augment = Augment(**augment | {"scale": tuple(augment["scale"])})
    paths = {name: told[name] and Path(told[name]) for name in ("out", "init", "data")}
    lists = {name: tuple(told[name]) for name in ("mask_ratio", "vgg_layers") if name in told}
    return TrainConfig(**told | paths | lists | {"model": model, "augment": augment})


def _check_same_run(config: TrainConfig) -> None:
    """Refuse to resume a run under another configuration; only its length and its validation may change."""
    free = {"out", "resume", "steps", "eval_every", "val_images"}
    now, then = _plain(config), _plain(read_config(config.out))
    changed = [f"{name} {then[name]} -> {now[name]}" for name in now if name not in free and now[name] != then[name]]
    if changed:
        raise ValueError(f"{config.out} was trained otherwise: {'; '.join(changed)}; resume with the same settings")


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


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that a step is finished before the run stops.

    A second Ctrl-C stops at once. Outside the main thread signals cannot be caught, and nothing changes.
    """
    event = threading.Event()

    def request(number: int, frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


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
        _check_same_run(config)
    elif (config.out / "state.safetensors").exists():
        raise FileExistsError(f"{config.out} holds a run already; resume it (--resume) or choose another --out")
    accelerator = _accelerator(config)
    loss_function = _loss_function(config, accelerator)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = MaskedAutoencoder(config.model)
    notes = weights.start_from(model, config.init) if config.init and not config.resume else []
    optimizers = make_optimizers(model, config.optimizer, config.lr, config.weight_decay)
    done, losses = _load(config, model, optimizers) if config.resume else (0, [])
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
    write_atomic(config.out / "config.json", json.dumps(_plain(config), indent=2).encode())

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
                _save(config, bare, optimizers, done, losses)
            if stop.is_set():
                break
        if done < config.steps:
            _save(config, bare, optimizers, done, losses)
            bar.write(
                f"stopped after {done} steps; go on with: maelib train --resume --out {config.out}", file=sys.stderr
            )
    if log.rows:
        save_curves(log.rows, config.out / "curves.png")
    for name in HOLES:
        path = config.out / f"repairs-{name.replace(' ', '-').replace('%', '')}.png"
        note = getattr(loss_function.features, "note", "")
        save_reconstructions(bare, validation.images[:6], validation.masks[name][:6], path, note)
    if done < config.steps:
        raise KeyboardInterrupt
    return config.out / "model.safetensors"
