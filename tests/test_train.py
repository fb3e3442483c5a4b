"""Training: runs that learn, repeat, resume to the bit, and stop well."""

import json
import re
import signal
import time
from dataclasses import replace
from itertools import count, product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import TINY, fill_folder, full_disk, same, tiny_run, weights_of

from maelib.data.augment import Augment
from maelib.data.images import FolderImages
from maelib.losses import ReconstructionLoss
from maelib.masking import block_mask, hidden_count, mask_to_pixels
from maelib.model import MaskedAutoencoder
from maelib.perceptual import vgg19
from maelib.repair.evaluate import drawn_test_images
from maelib.training.log import read_log, start_tracker, write_log
from maelib.training.optim import lr_scale, make_optimizers, parameter_groups, take_step
from maelib.training.recipes import TrainConfig
from maelib.training.resume import STATES, read_config
from maelib.training.train import draw_views, load_images, make_views, train
from maelib.training.validation import Validation
from maelib.weights import CheckpointError, bundled_checkpoint, load_model, load_tensors

CPU = torch.device("cpu")


@pytest.fixture
def config(facades, tmp_path):
    return tiny_run(facades, tmp_path / "run")


@pytest.fixture
def perceptual(config):
    return replace(config, mse_weight=0.6, perceptual_weight=0.4, vgg="random", vgg_layers=("relu1_1", "relu2_1"))


def at(call, happen):
    """An augmentation as ever, but for its `call`-th batch, to which `happen` is done as well."""
    calls = count(1)

    class Happening(Augment):
        def apply(self, *args):
            x, valid = super().apply(*args)
            return happen(x) if next(calls) == call else x, valid

    return Happening()


# ---------------------------------------------------------------------------------------------------------- optimiser


def test_the_learning_rate_rises_to_its_maximum_and_falls_to_nearly_0():
    scales = [lr_scale(step, 200, 0.1) for step in range(200)]
    assert scales[:20] == pytest.approx(np.arange(1, 21) / 20)
    assert np.all(np.diff(scales[20:]) < 0)
    assert scales[20::89] == pytest.approx([1, 0.5, 0], abs=0.01)
    assert scales[-1] < 1e-3
    assert lr_scale(0, 10, 0.0) == 1


def test_in_fp16_a_step_without_finite_gradients_is_skipped_and_counted():
    scaler, model = torch.amp.GradScaler("cpu", init_scale=8.0), torch.nn.Linear(2, 1, bias=False)
    optimizers, before = [torch.optim.SGD(model.parameters(), lr=1.0)], model.weight.detach().clone()
    scaler.scale(1e38 * model.weight.sum() * 10).backward()  # overflows
    assert take_step(optimizers, 0.5, scaler)
    assert torch.equal(model.weight, before)
    assert scaler.get_scale() == 4
    scaler.scale(model.weight.sum()).backward()
    assert not take_step(optimizers, 0.5, scaler)
    torch.testing.assert_close(model.weight, before - 0.5)  # the factor is gone from the gradient


def test_fp16_repairs_as_float32_does_and_trains_on_a_gpu_alone(config):
    model, images = load_model(bundled_checkpoint()), drawn_test_images(96, 4)
    mask = block_mask(4, (12, 12), 0.5, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.float16):
        half = model(images, mask)
    assert half.dtype == torch.float32  # so is the loss
    torch.testing.assert_close(half, model(images, mask), rtol=0, atol=0.02)
    assert all(maps.isfinite().all() for maps in vgg19("random", dtype=torch.float16)(images))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="fp16 needs a CUDA GPU, and this run computes on cpu; use bf16"):
            train(replace(config, precision="fp16"))


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_every_parameter_is_trained_once_and_only_matrices_decay(optimizer):
    model = MaskedAutoencoder(replace(TINY, class_token=True, positions="learned"))
    optimizers = make_optimizers(model, optimizer, lr=1e-3, weight_decay=0.1)
    decay = {p: group["weight_decay"] for o in optimizers for group in o.param_groups for p in group["params"]}
    assert set(decay) == {p for p in model.parameters() if p.requires_grad}
    assert sum(len(group["params"]) for o in optimizers for group in o.param_groups) == len(decay)
    undecayed = {name for name, p in model.named_parameters() if not decay[p]}
    tokens = {"cls_token", "mask_token", "pos_embed", "decoder_pos_embed"}
    assert undecayed == {name for name, p in model.named_parameters() if p.ndim == 1} | tokens
    assert len(parameter_groups(model)["hidden"]) == 8


# -------------------------------------------------------------------------------------------------------------- views


@pytest.mark.parametrize("augment", [Augment(jitter=0), Augment(rotation=10, scale=(0.7, 1), jitter=0)])
def test_no_mask_hides_a_patch_that_holds_border_fill(facades, config, augment):
    """Border fill is painted magenta here, and everything else is kept darker."""
    images = FolderImages(facades, 32)
    batch = torch.stack([images[i] for i in range(24)])
    fill = batch[:, 3:] == 0
    assert fill.flatten(1).any(dim=1).sum() == 8
    batch[:, :3] = torch.where(fill, torch.tensor([255, 0, 255])[:, None, None], batch[:, :3].clamp(max=200))
    config = replace(config, batch_size=24, augment=augment, mask_ratio=(0.6, 0.9))
    for step in range(20):
        x, mask, counts = make_views(config, batch, draw_views(config, step))
        assert mask.any(dim=1).all()
        assert (mask.sum(dim=1) <= counts).all()
        assert x[:, 0][mask_to_pixels(mask, 8, (4, 4))].max() <= 201 / 255
    assert counts.min() == counts.max() >= hidden_count((4, 4), 0.6)  # so that averages over parts are exact
    assert len(torch.stack([draw_views(config, step)[1] for step in range(20)]).unique(dim=0)) == 20


# --------------------------------------------------------------------------------------------------------------- runs


def test_a_run_learns_and_leaves_everything_behind(config):
    path = train(replace(config, steps=60, eval_every=2, lr=5e-3))
    assert load_model(path).config == TINY
    assert {file.name for file in config.out.iterdir()} == {
        "model.safetensors", "best.safetensors", "state.safetensors", "state-1.safetensors", "log.csv", "config.json",
        "curves-loss.png", "curves-psnr.png", "repairs-block-25.png", "repairs-block-50.png", "repairs-random-75.png",
    }  # fmt: skip
    rows = read_log(config.out / "log.csv")
    assert [row["step"] for row in rows] == list(range(2, 61, 2))
    assert rows[-1]["val_loss"] < 0.8 * rows[0]["val_loss"]
    assert rows[-1]["psnr block 50%"] > rows[0]["psnr block 50%"]
    best = min(rows, key=lambda row: row["val_loss"])
    assert load_tensors(config.out / "best.safetensors")[1]["step"] == best["step"]
    states = [load_tensors(config.out / name)[1]["step"] for name in ("state.safetensors", "state-1.safetensors")]
    assert states == [60, 58]
    assert load_tensors(path)[1]["step"] == 60
    assert str(config.out.parent).encode() not in path.read_bytes()  # nothing of the machine it was made on


@pytest.mark.parametrize(
    ("options", "number"),
    [
        ({"optimizer": "muon", "precision": "bf16", "accumulate": 2}, signal.SIGINT),
        ({"optimizer": "adamw", "vgg": "random", "perceptual_weight": 0.4}, signal.SIGTERM),
    ],
    ids=str,
)
def test_a_run_stopped_by_a_signal_and_a_full_disk_continues_to_the_same_weights(config, tmp_path, options, number):
    config = replace(config, **options)
    whole = weights_of(train(config))
    half = replace(config, out=tmp_path / "half")
    with pytest.raises(KeyboardInterrupt):
        train(replace(half, augment=at(4, lambda x: signal.raise_signal(number) or x)))
    load_model(half.out / "model.safetensors")  # usable as it is
    with full_disk(50_000), pytest.raises(OSError, match=r"checkpoint of step 6 .*too large.* is of step 4:.*--resume"):
        train(replace(half, resume=True))
    assert load_tensors(half.out / "state.safetensors")[1]["step"] == 4
    assert same(whole, weights_of(train(replace(half, resume=True))))
    assert (half.out / "log.csv").read_text() == (config.out / "log.csv").read_text()  # losses of both halves included


def test_a_run_starts_from_the_weights_it_is_given_or_from_its_seed_and_leaves_the_global_generator_alone(config):
    state, short = torch.get_rng_state(), {"steps": 1, "lr": 1e-9}
    path = train(config)
    tuned, fresh, other = (
        weights_of(train(replace(config, out=config.out / name, **options, **short)))
        for name, options in {"tuned": {"init": path, "seed": 1}, "fresh": {}, "other": {"seed": 1}}.items()
    )
    torch.testing.assert_close(tuned, weights_of(path), rtol=1e-5, atol=1e-6)
    assert (fresh["mask_token"] - other["mask_token"]).abs().max() > 1e-3
    assert torch.equal(torch.get_rng_state(), state)


def test_mixed_and_drawn_images_are_trained_on_and_bad_files_left_out(config, monkeypatch, tmp_path, recwarn):
    monkeypatch.setenv("MAELIB_CACHE", str(tmp_path / "cache"))
    mixed = replace(config, data=fill_folder(tmp_path / "facades", 12), drawn=5, skip_bad=True)
    (mixed.data / "bad.npy").write_text("not an array")
    drawn = replace(config, data=None, drawn=6, val_images=4, out=tmp_path / "drawn")
    for run, number in ((mixed, 10 + 5), (drawn, 6)):
        images, val = load_images(run)
        assert len(images) == len(images.names) == number
        assert not set(images.names) & set(val.names)
        train(run)
    assert any("left out: " in str(warning.message) for warning in recwarn)


def test_compiled_blocks_learn_the_same_and_their_weights_keep_their_names(config, monkeypatch):
    real = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: real(module, backend="aot_eager"))
    plain, compiled = (train(replace(config, out=config.out / str(flag), compile=flag)) for flag in (False, True))
    assert weights_of(plain).keys() == weights_of(compiled).keys()
    rows, others = (read_log(path.with_name("log.csv")) for path in (plain, compiled))
    for row, other in zip(rows, others, strict=True):
        assert other == {name: pytest.approx(value, rel=1e-4) for name, value in row.items()}


def test_validation_is_fixed_and_on_the_scale_of_the_training_loss(perceptual):
    images = load_images(perceptual)[1]
    validation, features = Validation(images, perceptual, CPU), vgg19("random", perceptual.vgg_layers)
    model, loss = MaskedAutoencoder(TINY), ReconstructionLoss(TINY, 0.6, 0.4, features)
    mask = validation.masks["val_loss"]
    direct = loss(model(validation.images, mask), validation.images, mask, validation.counts.sum())
    row = validation(model, loss)
    assert row == validation(model, loss) == Validation(images, perceptual, CPU)(model, loss)
    assert [row[f"val_{name}"] for name in loss.names] == pytest.approx([direct[name].item() for name in loss.names])


def test_the_blend_and_its_terms_are_logged_on_one_scale(perceptual):
    term = "perceptual (random VGG19)"  # random weights say so wherever their numbers stand
    train(perceptual)
    rows = read_log(perceptual.out / "log.csv")
    names = [f"{part}_{name}" for part in ("train", "val") for name in ("loss", "mse", term)]
    assert list(rows[0]) == ["step", "lr", *names, "psnr block 25%", "psnr block 50%", "psnr random 75%"]
    for row, part in product(rows, ("train", "val")):
        blend = 0.6 * row[f"{part}_mse"] + 0.4 * row[f"{part}_{term}"]
        assert row[f"{part}_loss"] == pytest.approx(blend, rel=1e-5)
        assert row[f"{part}_{term}"] > 0
    assert {"curves-mse.png", "curves-perceptual.png"} <= {path.name for path in perceptual.out.iterdir()}


# ------------------------------------------------------------------------------------------------------------- faults


def test_a_loss_that_is_not_finite_names_step_images_and_the_last_good_checkpoint(config):
    words = r"step 5: the loss is not finite.*checkpoint is of step 3.*0\.004.*--init .*model"
    with pytest.raises(FloatingPointError, match=words) as error:
        train(replace(config, augment=at(5, lambda x: x * torch.nan)))
    assert sum(name in str(error.value) for name in load_images(config)[0].names) == 4
    assert load_tensors(config.out / "state.safetensors")[1]["step"] == 3
    assert all(tensor.isfinite().all() for tensor in weights_of(config.out / "model.safetensors").values())


@pytest.mark.parametrize(("eval_every", "words"), [(1, "step 1: the validation loss"), (40, "step [2-9]: the loss")])
def test_diverging_weights_are_never_saved(config, eval_every, words):
    with pytest.raises(FloatingPointError, match=f"{words} is not finite.* no checkpoint yet: start anew with a lower"):
        train(replace(config, lr=1e30, steps=40, eval_every=eval_every))
    assert not list(config.out.glob("*.safetensors"))


@pytest.mark.filterwarnings("error:.*trying the state before it")
def test_the_newest_whole_state_is_used_and_a_damaged_one_is_warned_of(config):
    train(config)
    states = [config.out / name for name in STATES]
    states[0].unlink()  # killed between two renamings
    train(replace(config, resume=True, steps=9))
    states[0].write_bytes(states[0].read_bytes()[:-9])
    with pytest.warns(UserWarning, match=r"state\.safetensors is damaged .*trying the state before it"):
        train(replace(config, resume=True, steps=12))
    assert [row["step"] for row in read_log(config.out / "log.csv")] == [3, 6, 9, 12]
    for path in states:
        path.write_bytes(path.read_bytes()[:-1])
    told = pytest.warns(UserWarning, match="is damaged")
    with told, pytest.raises(CheckpointError, match=r"no whole state.safetensors .*start anew.*--init"):
        train(replace(config, resume=True, steps=15))


def test_a_run_is_never_overwritten_nor_resumed_with_other_settings(config):
    train(config)
    before = {path: path.read_bytes() for path in config.out.iterdir()}
    with pytest.raises(FileExistsError, match=r"already holds a run; resume it \(--resume\) or choose another --out"):
        train(config)
    other = replace(config, resume=True, optimizer="adamw", model=replace(TINY, depth=2))
    with pytest.raises(ValueError, match=r"model .*'depth': 1.*'depth': 2.*; optimizer muon -> adamw; .*--init"):
        train(other)
    with pytest.raises(ValueError, match="already at step 6, beyond steps 5; ask for more steps"):
        train(replace(config, resume=True, steps=5))
    assert {path: path.read_bytes() for path in config.out.iterdir()} == before
    assert read_config(config.out) == config
    train(replace(config, resume=True, steps=8))  # a longer run is the same run
    assert read_log(config.out / "log.csv")[-1]["step"] == 8


def test_data_or_weights_that_cannot_be_had_are_named_before_anything_is_written(config, tmp_path, out_of_reach):
    with pytest.raises(FileNotFoundError, match="gone does not exist"):
        train(replace(config, data=tmp_path / "gone"))
    with pytest.raises(OSError, match="--perceptual-weight 0"):
        train(replace(config, perceptual_weight=0.4))
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist; start a run there"):
        train(replace(config, resume=True))
    assert not config.out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps 0 is not positive"),
        ({"seed": -1}, "seed -1 is out of range; use 0 to"),
        ({"seed": 2**70}, "out of range"),
        ({"lr": float("nan")}, "lr nan is not positive and finite"),
        ({"val_share": float("nan")}, "val_share nan is not a share; use more than 0"),
        ({"warmup": 1.0}, "warmup 1.0 is not a share"),
        ({"drawn": 0}, "leaves nothing to learn from"),
        ({"track": "aim"}, "track 'aim' is not known; use wandb"),
        ({"mask_ratio": (0.5, 1.0)}, "mask_ratio 1.0 of 64 patches"),
    ],
)
def test_settings_out_of_range_are_named_with_their_cure(options, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)


# ---------------------------------------------------------------------------------------------------------------- log


def test_a_log_has_the_columns_of_all_rows_and_no_empty_cells(tmp_path):
    rows = [{"step": 1, "val_loss": 0.5}, {"step": 2, "psnr": 4.0}]
    write_log(tmp_path / "log.csv", rows)
    assert read_log(tmp_path / "log.csv") == rows


@pytest.mark.parametrize("content", [b"step,loss\n1,x\n", b"step,loss\n1,2,3\n", b"loss\n1\n", b"st\xddep\n1\n"])
def test_a_damaged_log_is_named_with_its_cure_and_left_alone(config, content):
    train(config)
    (config.out / "log.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"log.csv is damaged .*; repair it or move it away"):
        train(replace(config, resume=True, steps=9))
    assert (config.out / "log.csv").read_bytes() == content


# ------------------------------------------------------------------------------------------------------------ tracker


@pytest.fixture
def tracked(perceptual, tmp_path, monkeypatch):
    """A run of somebody who has not logged in."""
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return replace(perceptual, steps=4, eval_every=2, track="wandb")


def test_an_offline_record_holds_settings_terms_and_pictures_changes_nothing_and_is_continued(tracked):
    path = train(tracked)
    (run,) = (tracked.out / "wandb").glob("offline-run-*")
    (file,) = run.glob("*.wandb")
    rows = read_log(tracked.out / "log.csv")
    assert {"lr", "train_mse", "val_mse"} <= rows[0].keys()
    entries = {("embed_dim", 32), ("perceptual_weight", 0.4)}.union(*(row.items() for row in rows))
    for _ in range(60):  # another process writes the file, and may be behind
        data = file.read_bytes()  # records in the blocks of a LevelDB log, whose headers are left out
        data = b"".join(data[at + 7 : at + 32768] for at in range(0, len(data), 32768))
        pairs = [(re.escape(name.encode()), json.dumps(value).encode()) for name, value in entries]
        lacking = [pair for pair in pairs if not re.search(rb"%b.{1,9}%b" % pair, data, re.DOTALL)]
        if not lacking:
            break
        time.sleep(0.5)
    assert not lacking
    pictures = {path.name.split("_")[0] for path in (run / "files" / "media" / "images").glob("*.png")}
    assert pictures == {"original", "masked", "prediction", "repaired"}
    plain = train(replace(tracked, out=tracked.out.with_name("plain"), track=None))
    assert same(weights_of(path), weights_of(plain))
    train(replace(tracked, steps=6, resume=True))
    runs = {path.name.rpartition("-")[2] for path in (tracked.out / "wandb").glob("offline-run-*")}
    assert len(runs) == 1  # what is resumed continues its first record


def test_a_tracker_without_its_package_is_named_with_the_cure(tracked):
    accelerator = SimpleNamespace(log_with=[])  # what accelerate makes of a package that is missing
    with pytest.raises(ImportError, match="track 'wandb' needs its package; pip install wandb, or omit --track"):
        start_tracker(accelerator, tracked)
