"""Training: runs that learn, repeat, resume to the bit, and stop well."""

import os
import signal
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from tiny import TINY, fill_folder, same, tiny_run

from maelib.data.augment import Augment
from maelib.data.images import FolderImages
from maelib.losses import ReconstructionLoss
from maelib.masking import block_mask, hidden_count, mask_to_pixels
from maelib.model import CONFIGS, MaskedAutoencoder
from maelib.perceptual import vgg19
from maelib.repair.evaluate import drawn_test_images
from maelib.training.log import read_log, write_log
from maelib.training.optim import lr_scale, make_optimizers, parameter_groups, take_step
from maelib.training.recipes import RECIPES, TrainConfig
from maelib.training.resume import read_config
from maelib.training.train import draw_views, load_images, make_views, train
from maelib.training.validation import Validation
from maelib.weights import CheckpointError, bundled_checkpoint, load_model, load_tensors

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fill_folder(tmp_path_factory.mktemp("facades"))


@pytest.fixture(scope="module")
def corners(tmp_path_factory):
    """The same facades, a third of them with black corners."""
    return fill_folder(tmp_path_factory.mktemp("corners"), corners=True)


@pytest.fixture
def config(folder, tmp_path):
    return tiny_run(folder, tmp_path / "run")


@pytest.fixture
def perceptual(config):
    return replace(config, mse_weight=0.6, perceptual_weight=0.4, vgg="random", vgg_layers=("relu1_1", "relu2_1"))


class StopAt(Augment):
    """An augmentation during whose `call`-th batch `signal` arrives; other batches are augmented as ever."""

    def __init__(self, call, number=signal.SIGINT, **options):
        super().__init__(**options)
        object.__setattr__(self, "calls", iter([False] * (call - 1) + [True] + [False] * 99))
        object.__setattr__(self, "number", number)

    def apply(self, images, size, drawn):
        if next(self.calls):
            signal.raise_signal(self.number)
        return super().apply(images, size, drawn)


def weights(path):
    return load_tensors(path)[0]


# ---------------------------------------------------------------------------------------------------------- optimiser


def test_the_learning_rate_rises_to_its_maximum_and_falls_to_nearly_0():
    scales = [lr_scale(step, 200, 0.1) for step in range(200)]
    assert max(scales) == scales[19] == scales[20] == 1
    assert scales[0] == pytest.approx(1 / 20)
    assert np.all(np.diff(scales[:20]) > 0)
    assert np.all(np.diff(scales[20:]) < 0)
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


def test_views_of_parts_are_the_parts_of_the_views(corners, config):
    """Whoever shares a batch sees of it what one process would see, and hides what it would hide."""
    config = replace(config, batch_size=8, augment=Augment(rotation=10, scale=(0.7, 1)), mask_ratio=(0.2, 0.8))
    images = FolderImages(corners, 32)
    batch = torch.stack([images[i] for i in range(8)])
    whole = make_views(config, batch, draw_views(config, step=5))
    parts = [make_views(config, batch[part], draw_views(config, 5, part)) for part in (slice(0, 4), slice(4, 8))]
    for one, some in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(some), one)
    assert not torch.equal(make_views(config, batch, draw_views(config, step=6))[1], whole[1])


@pytest.mark.parametrize("augment", [Augment(jitter=0), Augment(rotation=10, scale=(0.7, 1), jitter=0)])
def test_no_mask_hides_a_patch_that_holds_border_fill(corners, config, augment):
    """Border fill is painted magenta here, and everything else is kept darker."""
    images = FolderImages(corners, 32)
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


def test_the_same_seed_gives_the_same_weights_to_the_bit(config, tmp_path):
    first = weights(train(config))
    state = torch.get_rng_state()
    again = weights(train(replace(config, out=tmp_path / "again")))
    assert torch.equal(torch.get_rng_state(), state)  # and the global generator is left alone
    assert same(first, again)
    assert not same(first, weights(train(replace(config, out=tmp_path / "other", seed=1))))


@pytest.mark.parametrize(
    ("options", "number"),
    [
        ({"optimizer": "muon"}, signal.SIGINT),
        ({"optimizer": "adamw"}, signal.SIGTERM),
        ({"vgg": "random", "perceptual_weight": 0.4}, signal.SIGINT),
        ({"precision": "bf16", "accumulate": 2}, signal.SIGINT),
    ],
    ids=str,
)
def test_an_interrupted_run_continues_to_the_same_weights(config, corners, tmp_path, options, number):
    config = replace(config, data=corners, **options)
    whole = weights(train(config))
    half = replace(config, out=tmp_path / "half")
    with pytest.raises(KeyboardInterrupt):
        train(replace(half, augment=StopAt(4, number)))
    load_model(half.out / "model.safetensors")  # usable as it is
    with pytest.raises(CheckpointError, match=r"state\.safetensors"):
        load_model(half.out / "state.safetensors")
    assert load_tensors(half.out / "state.safetensors")[1]["step"] == 4
    assert same(whole, weights(train(replace(half, resume=True))))
    assert (half.out / "log.csv").read_text() == (config.out / "log.csv").read_text()  # losses of both halves included


def test_a_run_starts_from_the_weights_it_is_given(config, tmp_path):
    path = train(config)
    tuned = train(replace(config, init=path, out=tmp_path / "tuned", steps=1, lr=1e-9))
    torch.testing.assert_close(weights(tuned), weights(path), rtol=1e-5, atol=1e-6)


def test_mixed_and_drawn_images_are_trained_on(config, monkeypatch, tmp_path):
    monkeypatch.setenv("MAELIB_CACHE", str(tmp_path / "cache"))
    images, val = load_images(replace(config, drawn=5))
    assert len(images) == len(images.names) == 24 - len(val) + 5
    assert not set(images.names) & set(val.names)
    train(replace(config, drawn=5))
    drawn = replace(config, data=None, drawn=6, val_images=4, out=tmp_path / "drawn")
    assert not set(load_images(drawn)[0].names) & set(load_images(drawn)[1].names)
    train(drawn)


def test_bad_files_stop_a_run_or_are_left_out_when_asked(config, tmp_path):
    mixed = replace(config, data=fill_folder(tmp_path / "mixed", 12))
    (mixed.data / "bad.npy").write_text("not an array")
    with pytest.raises(ValueError, match=r"bad\.npy.*--skip-bad"):
        train(mixed)
    with pytest.warns(UserWarning, match=r"left out: .*bad\.npy"):
        train(replace(mixed, skip_bad=True))


def test_compiled_blocks_learn_the_same_and_their_weights_keep_their_names(config, monkeypatch):
    real = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: real(module, backend="aot_eager"))
    plain, compiled = (train(replace(config, out=config.out / str(flag), compile=flag)) for flag in (False, True))
    assert weights(plain).keys() == weights(compiled).keys()
    rows, others = (read_log(path.with_name("log.csv")) for path in (plain, compiled))
    for row, other in zip(rows, others, strict=True):
        assert other == {name: pytest.approx(value, rel=1e-4) for name, value in row.items()}


@pytest.mark.parametrize("blend", [False, True])
def test_validation_is_fixed_and_on_the_scale_of_the_training_loss(config, perceptual, blend):
    config = perceptual if blend else config
    validation = Validation(load_images(config)[1], config, CPU)
    features = vgg19("random", config.vgg_layers) if blend else None
    model, loss = MaskedAutoencoder(TINY), ReconstructionLoss(TINY, 0.6, 0.4 * blend, features)
    mask = validation.masks["val_loss"]
    direct = loss(model(validation.images, mask), validation.images, mask)
    row = validation(model, loss)
    assert row == validation(model, loss) == Validation(load_images(config)[1], config, CPU)(model, loss)
    assert {f"val_{name}": pytest.approx(direct[name].item(), rel=1e-5) for name in loss.names} == {
        name: value for name, value in row.items() if name.startswith("val_")
    }
    assert {"psnr block 25%", "psnr block 50%", "psnr random 75%"} <= row.keys()


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


@pytest.mark.parametrize("stop", ["loss", "validation"])
def test_a_loss_that_is_not_finite_names_step_images_and_the_last_good_checkpoint(config, monkeypatch, stop):
    original, calls = ReconstructionLoss.__call__, []

    def call(self, *args):
        calls.append(torch.is_grad_enabled())
        terms = original(self, *args)
        broken = calls.count(True) >= 5 and torch.is_grad_enabled() == (stop == "loss")
        return {name: term * (torch.nan if broken else 1) for name, term in terms.items()}

    monkeypatch.setattr(ReconstructionLoss, "__call__", call)
    with pytest.raises(FloatingPointError, match=r"not finite.*checkpoint is of step 3.*0\.004.*--init .*model") as e:
        train(config)
    assert f"step {5 if stop == 'loss' else 6}: " in str(e.value)
    if stop == "loss":
        assert sum(name in str(e.value) for name in load_images(config)[0].names) == 4
    assert load_tensors(config.out / "state.safetensors")[1]["step"] == 3
    assert all(tensor.isfinite().all() for tensor in weights(config.out / "model.safetensors").values())


def test_diverging_weights_are_never_saved(config):
    with pytest.raises(FloatingPointError, match="There is no checkpoint yet: start anew with a lower learning rate"):
        train(replace(config, lr=1e30, steps=40, eval_every=40))
    assert not list(config.out.glob("*.safetensors"))


@pytest.mark.parametrize("damage", ["cut", "bit", "gone"])
def test_a_damaged_state_is_warned_of_and_the_one_before_is_used(config, tmp_path, recwarn, damage):
    train(config)
    path = config.out / "state.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "bit":
        data[-100] ^= 4
    path.write_bytes(data[:-9] if damage == "cut" else data)
    if damage == "gone":
        path.unlink()
    train(replace(config, resume=True, steps=9))
    said = [str(w.message) for w in recwarn if "trying the state before it" in str(w.message)]
    assert len(said) == (damage != "gone")
    assert [row["step"] for row in read_log(config.out / "log.csv")] == [3, 6, 9]


def test_a_run_without_any_whole_state_names_the_cure(config, recwarn):
    train(config)
    for path in config.out.glob("state*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"no whole state .*start anew.*--init"):
        train(replace(config, resume=True, steps=9))
    assert [name in str(w.message) for w, name in zip(recwarn, ("state.saf", "state-1.saf"), strict=True)] == [True] * 2


@pytest.mark.parametrize("failing", [6, 7, 9])
def test_a_full_disk_stops_the_run_with_the_last_good_checkpoint_whole(config, monkeypatch, failing):
    """After config.json, a log interval writes log, state, best model and model; in the second, one of them fails."""
    original, calls = os.fsync, []

    def full(handle):
        calls.append(1)
        if len(calls) >= failing:
            raise OSError(28, "No space left on device")
        original(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        train(replace(config, steps=9))
    monkeypatch.undo()
    assert load_tensors(config.out / "state.safetensors")[1]["step"] == 3
    whole = weights(train(replace(config, steps=9, out=config.out / "whole")))
    assert same(whole, weights(train(replace(config, steps=9, resume=True))))


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


def test_the_original_s_recipe_is_the_readmes():
    base = RECIPES["facade_base"]
    assert base.model == CONFIGS["facade_base"]
    assert (base.mse_weight, base.perceptual_weight, base.mask, base.mask_ratio) == (0.6, 0.4, "block", (0.5, 0.5))


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
