"""Training: one loop for every recipe, from the images to a checkpoint, in one process or in many."""

import json
import math
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from maelib.data.augment import to_float
from maelib.data.images import StepSampler, epoch_indices, prefetch
from maelib.data.sources import LeftOut, load_images
from maelib.files import write_atomic
from maelib.losses import ReconstructionLoss
from maelib.masking import MASKS, exclude_patches, mask_from_pixels
from maelib.model import MaskedAutoencoder
from maelib.perceptual import vgg19
from maelib.repair.evaluate import HOLES
from maelib.training.devices import batch_parts, make_accelerator, prepare_model
from maelib.training.log import (
    CsvLog,
    reconstructions,
    save_curves,
    save_reconstructions,
    start_tracker,
    track_images,
)
from maelib.training.optim import lr_scale, make_optimizers
from maelib.training.recipes import TrainConfig
from maelib.training.resume import check_same_run, gather, has_state, load_run, plain, save_run, stop_requests
from maelib.training.validation import Validation
from maelib.weights import published as weights

if TYPE_CHECKING:
    from accelerate import Accelerator
    from tqdm import tqdm

MOST_SKIPPED = 20  # steps in a row that --on-nan skip leaves out: after so many the weights themselves are no numbers


def make_loss(config: TrainConfig, accelerator: "Accelerator") -> ReconstructionLoss:
    """The configured loss; its features compute in the run's precision, on its device."""
    features = None
    if config.perceptual_weight:
        dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
        features = vgg19(config.vgg, config.vgg_layers, dtype).to(accelerator.device)
    weights = config.mse_weight, config.perceptual_weight
    return ReconstructionLoss(config.model, *weights, features, config.all_patches, config.log_mse, config.vgg_window)


def _squared_gradients(terms: dict[str, Tensor], prediction: Tensor, weight: Tensor) -> Tensor:
    """Squared Euclidean norm of each unweighted term's gradient at the prediction: who pulls how hard."""
    norms = [
        torch.autograd.grad(term * weight, prediction, retain_graph=True)[0].float().square().sum()
        for name, term in terms.items()
        if name != "loss"
    ]
    return torch.stack(norms)


class _Run:
    """A run at work: what `train` prepares, and what it does at every step and every log interval.

    The numbers of a step are those of its whole batch, however many processes and forward passes share it: masks and
    augmentation are drawn for all of it, and means are taken over all of it.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.accelerator = config, make_accelerator(config)
        self.rank, self.processes = self.accelerator.process_index, self.accelerator.num_processes
        self.is_main, self.device = self.accelerator.is_main_process, self.accelerator.device
        self.parts = batch_parts(config, self.processes, self.rank)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            model = MaskedAutoencoder(config.model)
        self.notes = weights.start_from(model, config.init) if config.init and not config.resume else []
        self.sharded = config.shard and self.processes > 1
        self.model = prepare_model(model, self.accelerator, config)
        self.bare = self.accelerator.unwrap_model(self.model)
        optimizers = make_optimizers(self.bare, config.optimizer, config.lr, config.weight_decay)
        self.optimizers = [self.accelerator.prepare_optimizer(optimizer) for optimizer in optimizers]
        self.done, self.losses, told = load_run(config, self.bare, self.optimizers) if config.resume else (0, [], [])
        self.notes += told
        if self.done > config.steps:
            raise ValueError(
                f"{config.out} is at step {self.done} already, beyond steps {config.steps}; ask for more steps"
            )
        self.saved, self.skipped, self.trouble = self.done, 0, None
        with self.accelerator.main_process_first():  # what is fetched or drawn is fetched or drawn once
            self.loss = make_loss(config, self.accelerator)
            self.images, val_images, skipped = load_images(config)
        self.left_out = LeftOut(val_images, self.images)
        self.losses = [terms for terms in self.losses if len(terms) == len(self.loss.names)]  # else `changed` took some
        self.notes += [f"skipped: {complaint}" for complaint in skipped]
        count = min(len(val_images), config.val_images)
        if self.sharded and count < self.processes:
            raise ValueError(
                f"{count} validation image(s) are fewer than the {self.processes} processes that share the model "
                "(--shard); raise --val-share or --val-images, or let each process hold the whole model (--no-shard)"
            )
        val_images, val_voids = val_images.batch(list(range(count)))
        val_images, ratio = to_float(val_images).to(self.device), sum(config.mask_ratio) / 2
        mine = slice(self.rank, None, self.processes)
        self.validation = Validation(val_images, config.model, config.mask, ratio, val_voids, mine, self.total)
        if self.is_main:
            for partial in config.out.glob(".*.partial"):  # of a run that was killed while it wrote
                partial.unlink()
            self.log = CsvLog(config.out / "log.csv", self.done)
            told = plain(replace(config, changed=False))  # what was meant once is not meant for ever
            write_atomic(config.out / "config.json", json.dumps(told, indent=2).encode())
        if config.track:
            start_tracker(self.accelerator, config.track, plain(config), config.out)

    def total(self, numbers: Tensor) -> Tensor:
        """Sum over all processes."""
        return self.accelerator.reduce(numbers, "sum")

    def sampler(self) -> StepSampler:
        """The batches still to come, this process's part of each."""
        config, mine = self.config, slice(self.parts[0].start, self.parts[-1].stop)
        drawn = config.drawn if config.data and config.drawn else 0
        epoch = epoch_indices(len(self.images), drawn, config.data_share)
        return StepSampler(epoch, config.batch_size, config.steps, config.seed, self.done, mine)

    def _see(self, images: Tensor, voids: Tensor | None) -> list[tuple[Tensor, Tensor, Tensor | None, bool]]:
        """For each forward pass images `(b, C, H, W)`, mask `(b, N)`, patches `(b, N)` with any void, whether not all.

        Where all are, the mask is as drawn, so that there is something to compute; it is the batch that says whether
        this part of it counts.
        """
        config, generator = self.config, Generator().manual_seed(self.config.seed * 1_000_003 + self.done)
        drawn = config.augment.draw(config.batch_size, generator)  # as if never interrupted, and by nobody shared
        low, high = config.mask_ratio
        ratio = low + (high - low) * torch.rand((), generator=generator).item()
        masks = MASKS[config.mask](config.batch_size, config.model.grid_size, ratio, generator)
        views, size, first = [], config.model.img_size, self.parts[0].start
        for part in self.parts:
            here = slice(part.start - first, part.stop - first)
            numbers = {name: values[:, part] for name, values in drawn.items()}
            mask, x = masks[part].to(self.device), images[here].to(self.device, non_blocking=True)
            if voids is None:
                views.append((config.augment.apply(x, size, numbers), mask, None, True))
                continue
            x, holes = config.augment.apply_with_voids(x, voids[here].to(self.device), size, numbers)
            void = mask_from_pixels(holes, config.model.patch_size)
            seen = not void.all()  # crops may have met nothing but void
            views.append((x, exclude_patches(mask, void), void, True) if seen else (x, mask, None, False))
        return views

    def step(self, images: Tensor, voids: Tensor | None, stop: threading.Event) -> tuple[dict[str, float], bool]:
        """Learn from one batch; returns the terms' gradient norms at a log interval, and whether anybody is to stop."""
        views = self._see(images, voids)
        counts = torch.stack([self.loss.count(mask, void).to(self.device) for _, mask, void, _ in views]).float()
        known = counts * counts.new_tensor([seen for *_, seen in views])
        stopping = counts.new_tensor(float(stop.is_set()))
        whole, all_known, stopping = self.total(torch.stack([counts.sum(), known.sum(), stopping])).unbind()
        shares = torch.where(all_known > 0, known / all_known, counts / whole)  # of the batch, by what counts in it
        last = (self.done + 1) % self.config.eval_every == 0 or self.done + 1 == self.config.steps
        sums, squares = torch.zeros(len(self.loss.names), device=self.device), None
        for i, ((x, mask, void, _), weight) in enumerate(zip(views, shares, strict=True)):
            with self.accelerator.no_sync(self.model) if i + 1 < len(views) else nullcontext():
                prediction = self.model(x, mask)
                terms = self.loss(prediction, x, mask, void)
                if last and self.config.perceptual_weight:
                    norms = _squared_gradients(terms, prediction, weight)
                    squares = norms if squares is None else squares + norms
                self.accelerator.backward(terms["loss"] * weight * self.processes)  # processes are averaged over
            sums += torch.stack([terms[name].detach() * weight for name in self.loss.names])
        share = lr_scale(self.done, self.config.steps, self.config.warmup)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.config.lr * share
        self._learn(self.total(sums))
        self.done += 1
        if squares is None:
            return {}, bool(stopping)
        names = [f"grad_{name}" for name in self.loss.names if name != "loss"]
        return dict(zip(names, self.total(squares).sqrt().tolist(), strict=True)), bool(stopping)

    def _learn(self, sums: Tensor) -> None:
        """Let the optimisers make their step, unless a term of the loss is no number."""
        finite = bool(sums.isfinite().all())
        if finite:
            for optimizer in self.optimizers:
                optimizer.step()
            self.losses.append(sums)
            self.skipped = 0
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        if finite:
            return
        self.skipped += 1
        told = ", ".join(f"{name} {value:.3g}" for name, value in zip(self.loss.names, sums.tolist(), strict=True))
        message = f"step {self.done + 1}: {told}; its images: {', '.join(self._names())}"
        if self.config.on_nan == "skip" and self.skipped <= MOST_SKIPPED:
            self.notes.append(f"{message}; left out")
            return
        raise FloatingPointError(
            f"{message}. {self._last_good()}. Look at these images, lower the learning rate "
            f"(lr {self.config.lr}), or leave such steps out (--on-nan skip, at most {MOST_SKIPPED} in a row)"
        )

    def _last_good(self) -> str:
        good = f"step {self.saved} in {self.config.out}" if has_state(self.config) else "none yet"
        return f"Last good checkpoint: {good}"

    def _names(self) -> list[str]:
        """Files or seeds of the batch of the step at work, as far as this process sees them."""
        names, out = [self.images.names[i] for i in next(iter(self.sampler()))], self.images.left_out
        return [f"{name} (left out, the next one stood in for it)" if name in out else name for name in names]

    def report(self, gradients: dict[str, float]) -> dict[str, float]:
        """Validate, and in the main process log and save; returns the row. Weights that are no numbers stop the run."""
        row = {"step": self.done, "lr": self.config.lr * lr_scale(self.done - 1, self.config.steps, self.config.warmup)}
        means = torch.stack(self.losses).mean(dim=0).tolist() if self.losses else [math.nan] * len(self.loss.names)
        row |= {f"train_{name}": value for name, value in zip(self.loss.names, means, strict=True)}
        self.losses = []
        row |= gradients | self.validation(self.bare, self.loss)
        if not math.isfinite(row["val_loss"]):
            cure = ", or go on from there with another (--resume --changed --lr)" if has_state(self.config) else ""
            raise FloatingPointError(
                f"step {self.done}: val_loss {row['val_loss']:.3g}, the weights have grown beyond numbers. "
                f"{self._last_good()}. Lower the learning rate (lr {self.config.lr}) and start anew{cure}"
            )
        best = False
        if self.is_main:
            best = all(row["val_loss"] < earlier.get("val_loss", math.inf) for earlier in self.log.rows)
            self._write(lambda: self.log.add(row))
        self.save(best)
        if self.config.track:
            self.accelerator.log(row, step=self.done)
            track_images(self.accelerator, self._repairs("block 25%"), self.done)
        return row

    def save(self, best: bool = False) -> None:
        """Write what resuming needs, from the main process, once all have brought what they hold of it."""
        tensors = gather(self.bare, self.optimizers, self.is_main)
        if self.is_main and self._write(lambda: save_run(self.config, tensors, self.done, self.losses, best)):
            self.saved = self.done

    def _write(self, write: Callable[[], None]) -> bool:
        """Whether writing worked; where the disk is full or read-only the run goes on, and says so."""
        try:
            write()
        except OSError as error:
            self.trouble = error
            self.notes.append(
                f"step {self.done}: cannot write to {self.config.out} ({error}); the checkpoint of step {self.saved} "
                "stays, training goes on and tries again at the next interval"
            )
            return False
        return True

    def tell(self, bar: "tqdm") -> None:
        """Write what there is to say above the progress display."""
        while self.notes:
            bar.write(self.notes.pop(0), file=sys.stderr)

    def list_left_out(self) -> None:
        """Leave a list of all files that were found unusable on the way, by whichever process, and before resuming."""
        from accelerate.utils import gather_object

        whys = dict(gather_object(list(self.left_out.whys().items())))
        if whys and self.is_main:
            path, some = self.config.out / "left_out.txt", ", ".join(list(whys)[:3])
            before = path.read_text().splitlines() if self.config.resume and path.is_file() else []
            lines = dict.fromkeys([*before, *whys.values(), ""])
            if self._write(lambda: write_atomic(path, "\n".join(lines).encode())):
                self.notes.append(f"{len(whys)} file(s) were left out ({some}{', ...' * (len(whys) > 3)}); see {path}")

    def draw(self) -> None:
        """Leave curves and repairs as pictures, from the main process; those that share a model with it help."""
        out = self.config.out
        if self.is_main and self.log.rows:
            save_curves(self.log.rows, out / "curves.png")
        for name in HOLES:
            columns = self._repairs(name)
            if self.is_main:
                save_reconstructions(columns, out / f"repairs-{name.replace(' ', '-').replace('%', '')}.png")

    def _repairs(self, kind: str) -> dict[str, Tensor]:
        """The first validation images repaired, for the main process; only those that share a model with it help."""
        if not (self.is_main or self.sharded):
            return {}  # this process may have no image to validate on
        first = self.validation.images[:6], self.validation.masks[kind][:6]
        return reconstructions(self.bare, *first, getattr(self.loss.features, "note", ""))


def train(config: TrainConfig) -> Path:
    """Train a model as `config` says and return the checkpoint it ends with, `config.out / "model.safetensors"`.

    Started by `accelerate launch`, `torchrun` or accelerate's `notebook_launcher`, each of the processes takes its part
    of every batch, and what is learnt is what one process would learn.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C, once the step in work is finished and saved; `resume` goes on from there.
    FileExistsError
        When `config.out` holds a run already and `resume` is not set.
    FloatingPointError
        When the loss is infinite or no number, unless `on_nan` is 'skip'.
    OSError
        When the last checkpoint cannot be written.
    ValueError, FileNotFoundError
        When data or configuration do not allow training; the message says what to change.
    """
    from tqdm import tqdm

    if config.resume:
        check_same_run(config)
    elif has_state(config):
        raise FileExistsError(f"{config.out} holds a run already; resume it (--resume) or choose another --out")
    run = _Run(config)
    total, seen = config.steps * config.batch_size, run.done * config.batch_size
    bar = tqdm(total=total, initial=seen, unit="img", unit_scale=True, disable=not run.is_main)
    with bar, stop_requests() as stop:
        for images, voids in prefetch(run.images, run.sampler()):
            gradients, stopping = run.step(images, voids, stop)
            bar.update(config.batch_size)
            if run.done % config.eval_every == 0 or run.done == config.steps:
                row = run.report(gradients)
                bar.set_postfix({name: f"{value:.3g}" for name, value in row.items() if "psnr" in name})
            run.notes += run.left_out.news()
            run.tell(bar)
            if stopping:
                break
        run.list_left_out()
        run.tell(bar)
        if run.done < config.steps:
            run.save()
            bar.write(
                f"stopped after {run.done} steps; go on with: maelib train --resume --out {config.out}", file=sys.stderr
            )
    if run.is_main and run.saved < run.done:
        again = f"go on with: maelib train --resume --out {config.out}" if has_state(config) else "start anew"
        raise OSError(
            f"the last checkpoint in {config.out} is of step {run.saved}: {run.trouble}; see to the disk, then {again}"
        )
    run.draw()
    for tracker in run.accelerator.trackers:  # not end_training: that also parts the processes for good
        tracker.finish()
    if run.done < config.steps:
        raise KeyboardInterrupt
    run.accelerator.wait_for_everyone()
    return config.out / "model.safetensors"
