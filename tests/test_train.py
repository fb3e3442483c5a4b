"""Training: the schedule, the groups, and runs that repeat, resume and stop well."""

import csv
import json
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from unwedged import draw_unwedged

from maelib.data import sources
from maelib.data.augment import Augment, to_float
from maelib.losses import masked_mse
from maelib.masking import mask_to_pixels
from maelib.model import CONFIGS, MAEConfig, MaskedAutoencoder
from maelib.perceptual import vgg19
from maelib.training import log as tracking
from maelib.training import train
from maelib.training.log import CsvLog, read_log
from maelib.training.optim import lr_scale, make_optimizers, parameter_groups
from maelib.training.recipes import RECIPES, TrainConfig
from maelib.training.resume import read_config
from maelib.training.validation import Validation
from maelib.weights import checkpoint
from maelib.weights.checkpoint import load_model, load_tensors

SMALL = MAEConfig(img_size=32, embed_dim=32, depth=1, num_heads=2, decoder_embed_dim=16, decoder_depth=1,
                  decoder_num_heads=1)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("facades")
    for i, image in enumerate(draw_unwedged(24, 32)):
        np.save(path / f"{i:02d}.npy", image)
    return path


@pytest.fixture
def config(folder, tmp_path):
    return TrainConfig(
        out=tmp_path / "run", model=SMALL, data=folder, steps=6, batch_size=4, eval_every=3, precision="float32"
    )


def weights(path):
    return load_tensors(path)[0]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_rate_rises_to_exactly_1_and_falls_to_nearly_0():
    rates = [lr_scale(step, 200, 0.1) for step in range(200)]
    assert max(rates) == rates[19] == rates[20] == 1
    assert rates[0] == pytest.approx(1 / 20)
    assert np.all(np.diff(rates[:20]) > 0)
    assert np.all(np.diff(rates[20:]) < 0)
    assert rates[-1] < 1e-3
    assert lr_scale(0, 10, 0.0) == 1


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_every_parameter_is_trained_once_and_only_matrices_decay(optimizer):
    model = MaskedAutoencoder(replace(SMALL, class_token=True, positions="learned"))
    optimizers = make_optimizers(model, optimizer, lr=1e-3, weight_decay=0.1)
    decay = {p: group["weight_decay"] for o in optimizers for group in o.param_groups for p in group["params"]}
    assert set(decay) == {p for p in model.parameters() if p.requires_grad}
    assert sum(len(group["params"]) for o in optimizers for group in o.param_groups) == len(decay)
    undecayed = {name for name, p in model.named_parameters() if not decay[p]}
    expected = {n for n, p in model.named_parameters() if p.ndim == 1} | {
        "cls_token", "mask_token", "pos_embed", "decoder_pos_embed"
    }  # fmt: skip
    assert undecayed == expected
    assert len(parameter_groups(model)["hidden"]) == 8


def test_a_run_leaves_everything_behind_and_learns(config):
    path = train.train(replace(config, steps=60, eval_every=2, lr=5e-3))
    model = load_model(path)
    assert model.config == SMALL
    names = {file.name for file in config.out.iterdir()}
    assert {"model.safetensors", "state.safetensors", "log.csv", "config.json", "curves-loss.png", "curves-psnr.png",
            "repairs-block-25.png", "repairs-block-50.png", "repairs-random-75.png"} <= names  # fmt: skip
    rows = read_log(config.out / "log.csv")
    assert [row["step"] for row in rows] == list(range(2, 61, 2))
    assert rows[-1]["val_loss"] < 0.8 * rows[0]["val_loss"]
    assert rows[-1]["psnr block 50%"] > rows[0]["psnr block 50%"]
    assert json.loads((config.out / "config.json").read_text())["model"]["embed_dim"] == 32
    about = load_tensors(path)[1]  # a checkpoint tells how it was made, and nothing of the machine it was made on
    assert about["training"]["steps"] == about["step"] == 60
    assert str(config.out.parent) not in json.dumps(about)


def test_same_seed_same_weights_to_the_bit(config, tmp_path):
    first = weights(train.train(config))
    state = torch.get_rng_state()
    again = weights(train.train(replace(config, out=tmp_path / "again")))
    assert torch.equal(torch.get_rng_state(), state)  # and the global generator is left alone
    other = weights(train.train(replace(config, out=tmp_path / "other", seed=1)))
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.parametrize(
    "options", [{"optimizer": "muon"}, {"optimizer": "adamw"}, {"vgg": "random", "perceptual_weight": 0.4}], ids=str
)
def test_an_interrupted_run_goes_on_to_the_same_weights(config, tmp_path, monkeypatch, options):
    config = replace(config, **options)
    whole = weights(train.train(config))
    half = replace(config, out=tmp_path / "half")
    calls = []

    def ctrl_c(self, images, size, drawn):
        calls.append(1)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        return original(self, images, size, drawn)

    original = Augment.apply
    with monkeypatch.context() as patch:
        patch.setattr(Augment, "apply", ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            train.train(half)
    load_model(half.out / "model.safetensors")  # usable as it is
    with pytest.raises(checkpoint.CheckpointError, match=r"state.safetensors is what a run resumes from; use model"):
        load_model(half.out / "state.safetensors")
    assert load_tensors(half.out / "state.safetensors")[1]["step"] == 4
    resumed = weights(train.train(replace(half, resume=True)))
    assert same(whole, resumed)
    assert read_log(half.out / "log.csv") == read_log(config.out / "log.csv")  # the losses of both halves included
    assert (half.out / "curves-loss.png").exists()


def test_validation_is_fixed_and_apart_from_training(config, monkeypatch):
    train_images, val_images, _ = sources.load_images(config)
    assert not set(train_images.names) & set(val_images.names)
    monkeypatch.setattr(Augment, "apply", None)  # validation never augments
    model = MaskedAutoencoder(SMALL)
    loss = train.ReconstructionLoss(SMALL)
    images = to_float(val_images.__getitems__(range(len(val_images))))
    first, second = (Validation(images, SMALL, "mixed", 0.5)(model, loss) for _ in range(2))
    assert first == second
    assert set(first) == {"val_loss", "psnr block 25%", "psnr block 50%", "psnr random 75%"}


def test_validation_loss_is_on_the_scale_of_the_training_loss(config):
    """Same images, same masks, same loss: the one number the other would be."""
    _, images, _ = sources.load_images(config)
    validation = Validation(to_float(images.__getitems__(range(len(images)))), SMALL, "mixed", 0.5)
    model, loss = MaskedAutoencoder(SMALL), train.ReconstructionLoss(SMALL)
    mask = validation.masks["val_loss"]
    direct = loss(model(validation.images, mask), validation.images, mask)["loss"]
    assert validation(model, loss)["val_loss"] == pytest.approx(direct.item(), rel=1e-5)


def test_drawn_facades_and_a_folder_can_be_mixed(config, monkeypatch, tmp_path):
    monkeypatch.setenv("MAELIB_CACHE", str(tmp_path / "cache"))
    train_images, val_images, _ = sources.load_images(replace(config, drawn=5))
    assert len(train_images) == 24 - len(val_images) + 5
    assert train_images.__getitems__([0, len(train_images) - 1]).shape == (2, 3, 32, 32)


def test_bad_files_are_skipped_aloud(config, folder, tmp_path, capsys):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for file in folder.iterdir():
        (mixed / file.name).write_bytes(file.read_bytes())
    (mixed / "bad.npy").write_text("no array")
    with pytest.raises(ValueError, match=r"bad\.npy"):
        train.train(replace(config, data=mixed))
    train.train(replace(config, data=mixed, skip_bad=True))
    assert "skipped: " in capsys.readouterr().err


def test_bf16_trains_too(config):
    rows = read_log(train.train(replace(config, precision="bf16")).parent / "log.csv")
    assert np.isfinite([row["train_loss"] for row in rows]).all()


def test_a_log_that_resumes_drops_what_came_after(tmp_path):
    log = CsvLog(tmp_path / "log.csv")
    for step in (1, 2, 3):
        log.add({"step": step, "loss": step / 2})
    CsvLog(tmp_path / "log.csv", first_step=2).add({"step": 3, "loss": 9})
    assert read_log(tmp_path / "log.csv") == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 1}, {"step": 3, "loss": 9}]
    with (tmp_path / "log.csv").open() as file:
        assert next(csv.reader(file)) == ["step", "loss"]


def test_a_log_has_the_columns_of_all_its_rows_and_makes_up_for_a_row_that_failed(tmp_path, monkeypatch):
    log, rows = CsvLog(tmp_path / "log.csv"), [{"step": 1, "loss": 3}, {"step": 2, "val": 4}, {"step": 3, "loss": 5}]
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "write_atomic", raise_full)
        with pytest.raises(OSError, match="No space left"):
            log.add(rows[0])
    for row in rows[1:]:
        log.add(row)
    assert read_log(tmp_path / "log.csv") == rows
    tracking.save_curves([row | {"train_loss": row.get("loss", 1)} for row in rows], tmp_path / "curves.png")
    assert (tmp_path / "curves-loss.png").exists()


def raise_full(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("content", [b"step,loss\n1,x\n", b"step,loss\n1,2,3\n", b"loss\n1\n", b"st\xddep\n1\n"])
def test_a_damaged_log_is_named_with_its_cure(config, content):
    train.train(config)
    (config.out / "log.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"log.csv is no log of a run, or damaged .*; mend it, or move it away"):
        train.train(replace(config, resume=True, steps=9))
    assert (config.out / "log.csv").read_bytes() == content
    (config.out / "log.csv").unlink()
    train.train(replace(config, resume=True, steps=9))
    assert [row["step"] for row in read_log(config.out / "log.csv")] == [9]


def test_recipes_say_what_they_are():
    assert RECIPES["facade_tiny"] == TrainConfig()
    base = RECIPES["facade_base"]
    assert base.model == CONFIGS["facade_base"]
    assert (base.mse_weight, base.perceptual_weight, base.mask, base.mask_ratio) == (0.6, 0.4, "block", (0.5, 0.5))


def test_a_run_is_never_overwritten(config):
    path = train.train(config)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="holds a run already; resume it"):
        train.train(config)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps 0 is not positive"),
        ({"lr": -1.0}, "lr -1.0 is not positive"),
        ({"warmup": 1.0}, "warmup 1.0 is no share"),
        ({"mask_ratio": (0.7, 0.3)}, r"mask_ratio \(0.7, 0.3\) runs backwards"),
        ({"mask_ratio": (0.5, 1.0)}, "mask_ratio 1.0 of 64 patches hides none or all"),
    ],
)
def test_bad_configurations_are_named_with_their_cure(options, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)


def test_resuming_under_other_settings_names_them_and_refuses(config):
    train.train(config)
    before = (config.out / "config.json").read_bytes()
    other = replace(config, resume=True, optimizer="adamw", model=replace(SMALL, depth=2))
    with pytest.raises(
        ValueError, match=r"trained otherwise: model .*'depth': 1.*'depth': 2.*; optimizer muon -> adamw"
    ):
        train.train(other)
    with pytest.raises(ValueError, match="is at step 6 already, beyond steps 5"):
        train.train(replace(config, resume=True, steps=5))
    assert (config.out / "config.json").read_bytes() == before
    assert read_config(config.out) == config
    train.train(replace(config, resume=True, steps=8))  # a longer run is the same run
    assert read_log(config.out / "log.csv")[-1]["step"] == 8


def test_a_run_that_died_before_its_first_checkpoint_can_start_again(config):
    config.out.mkdir()
    (config.out / "log.csv").touch()
    assert train.train(config).exists()


def test_data_that_cannot_be_had_is_named(config, tmp_path, out_of_reach):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        train.train(replace(config, data=tmp_path / "gone"))
    with pytest.raises(ValueError, match="leave nothing to learn from"):
        train.train(replace(config, data=None, drawn=0))
    with pytest.raises(OSError, match=r"cannot be fetched.*--perceptual-weight 0"):
        train.train(replace(config, perceptual_weight=0.4))
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist; start a run there"):
        train.train(replace(config, resume=True))
    assert not checkpoint.Path(config.out).exists()


@pytest.fixture
def perceptual(config):
    return replace(config, mse_weight=0.6, perceptual_weight=0.4, vgg="random", vgg_layers=("relu1_1", "relu2_1"))


TERMS = ("mse", "perceptual (random VGG19)")  # random weights say so wherever their numbers stand


def test_the_blend_and_its_terms_are_logged_on_one_scale_and_other_runs_log_what_they_did(config, perceptual):
    rows = read_log(train.train(perceptual).parent / "log.csv")
    train_columns = ["step", "lr", "train_loss", *(f"train_{term}" for term in TERMS)]
    psnr = ["psnr block 25%", "psnr block 50%", "psnr random 75%"]
    assert list(rows[0]) == [
        *train_columns, *(f"grad_{term}" for term in TERMS), "val_loss", *(f"val_{term}" for term in TERMS), *psnr
    ]  # fmt: skip
    for row in rows:
        for part in ("train", "val"):
            mse, features = (row[f"{part}_{term}"] for term in TERMS)
            assert row[f"{part}_loss"] == pytest.approx(0.6 * mse + 0.4 * features, rel=1e-5)
            assert features > 0
        assert all(row[f"grad_{term}"] > 0 for term in TERMS)
    names = {file.name for file in perceptual.out.iterdir()}
    assert {"curves-mse.png", "curves-perceptual.png", "curves-grad.png"} <= names
    plain = train.train(replace(config, out=config.out / "plain"))
    assert list(read_log(plain.parent / "log.csv")[0]) == ["step", "lr", "train_loss", "val_loss", *psnr]


def test_validation_terms_are_what_the_loss_says_of_the_same_images(perceptual):
    _, images, _ = sources.load_images(perceptual)
    validation = Validation(to_float(images.__getitems__(range(len(images)))), SMALL, "mixed", 0.5)
    model, features = MaskedAutoencoder(SMALL), vgg19("random", perceptual.vgg_layers)
    loss, mask = train.ReconstructionLoss(SMALL, 0.6, 0.4, features), validation.masks["val_loss"]
    direct, row = loss(model(validation.images, mask), validation.images, mask), validation(model, loss)
    assert {f"val_{name}": pytest.approx(value.item(), rel=1e-5) for name, value in direct.items()} == {
        name: value for name, value in row.items() if name.startswith("val_")
    }


def test_the_gradients_logged_are_those_of_the_terms_alone():
    generator = torch.Generator().manual_seed(0)
    prediction = torch.rand(2, 16, 192, generator=generator).requires_grad_()
    target, mask = torch.rand(2, 16, 192, generator=generator), torch.rand(2, 16, generator=generator) < 0.5
    terms = {"mse": masked_mse(prediction, target, mask), "sum": 3 * prediction.sum()}
    terms = {"loss": 0.6 * terms["mse"] + 0.4 * terms["sum"], **terms}
    squares = train._squared_gradients(terms, prediction, torch.tensor(0.5))
    by_hand = (2 * (prediction - target)[mask] / (mask.sum() * 192)).norm().item()
    assert (2 * squares.sqrt()).tolist() == [pytest.approx(by_hand), pytest.approx(3 * prediction.numel() ** 0.5)]
    assert prediction.grad is None  # and the step's own gradient is left alone


def test_a_run_on_a_file_of_weights_names_no_path_of_the_machine(perceptual, tmp_path):
    path = tmp_path / "mine.safetensors"
    save_file({k: v.contiguous() for k, v in vgg19("random", perceptual.vgg_layers).state_dict().items()}, path)
    config = replace(perceptual, vgg=str(path))
    told = load_tensors(train.train(config))[1]["training"]
    assert told["vgg"] == "mine.safetensors"
    assert read_config(config.out) == config
    row = read_log(config.out / "log.csv")[0]
    assert row["train_perceptual"] == pytest.approx(  # the same numbers, and nothing random to own up to
        read_log(train.train(replace(perceptual, out=tmp_path / "other")).parent / "log.csv")[0][f"train_{TERMS[1]}"]
    )


@pytest.fixture
def wedged_folder(folder, tmp_path):
    """The same facades, half of them with black or grey triangles."""
    path = tmp_path / "wedged"
    path.mkdir()
    y, x = np.mgrid[:32, :32]
    for i, file in enumerate(sorted(folder.iterdir())):
        image = np.load(file)
        if i % 2:
            image[x - y > 10 + i % 5] = (0, 128)[i // 2 % 2]
        np.save(path / file.name, image)
    return path


@pytest.mark.parametrize("augment", [Augment(), Augment(rotation=10, scale=(0.7, 1))])
def test_no_mask_and_no_loss_of_a_run_touches_a_wedge(config, wedged_folder, monkeypatch, augment):
    """Wedges are painted magenta once they are found, and all else is kept darker than that."""
    hidden, loss_call = [], train.ReconstructionLoss.__call__

    def spy(self, prediction, images, mask, void=None):
        hidden.append((images, mask, void))
        return loss_call(self, prediction, images, mask, void)

    def paint(self, patch_size=1):
        marked = original(self, patch_size)
        voids = np.unpackbits(marked.voids, axis=2).astype(bool)
        marked.images = np.where(voids[..., None], np.uint8([255, 0, 255]), np.minimum(marked.images, 200))
        return marked

    original = sources.Images.with_wedges
    monkeypatch.setattr(sources.Images, "with_wedges", paint)
    monkeypatch.setattr(train.ReconstructionLoss, "__call__", spy)
    train.train(replace(config, data=wedged_folder, augment=replace(augment, jitter=0), mask_ratio=(0.6, 0.9)))
    assert sum(bool(void.any()) for _, _, void in hidden) > 4
    for images, mask, void in hidden:
        assert not (mask & void).any()
        assert mask.any(dim=1).all()
        hole = mask_to_pixels(mask, SMALL.patch_size, SMALL.grid_size)
        assert images[:, 0][hole].max() <= 201 / 255  # the wedges' magenta is in no hidden patch


def test_wedges_are_looked_for_when_asked_and_change_nothing_where_there_are_none(config, wedged_folder):
    found, ignored = (sources.load_images(replace(config, data=wedged_folder, wedges=wedges))[0] for wedges in (1, 0))
    assert found.voids is not None
    assert ignored.voids is None
    assert np.array_equal(found.images, ignored.images)
    plain = weights(train.train(replace(config, wedges=False, out=config.out / "plain")))
    assert same(plain, weights(train.train(config)))  # the folder of `config` has no wedges


def test_a_run_with_wedges_goes_on_to_the_same_weights(config, wedged_folder, tmp_path):
    config = replace(config, data=wedged_folder, augment=Augment(rotation=5))
    whole = weights(train.train(config))
    half = replace(config, out=tmp_path / "half")
    calls, original = [], Augment.apply_with_voids

    def ctrl_c(self, images, voids, size, drawn):
        calls.append(1)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        return original(self, images, voids, size, drawn)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Augment, "apply_with_voids", ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            train.train(half)
    assert same(whole, weights(train.train(replace(half, resume=True))))


def test_drawn_pools_are_searched_for_wedges_too(config, monkeypatch, tmp_path):
    y, x = np.mgrid[:32, :32]
    images = draw_unwedged(6, 32)
    images[:, x + y > 45] = 0
    monkeypatch.setattr(sources, "drawn_pool", lambda count, size, seed=0: sources.Images(images, list("abcdef")))
    both = sources.load_images(replace(config, data=None, drawn=6))
    assert all(part.voids is not None for part in both[:2])


# ------------------------------------------------------------------------------------------------------------ faults


def not_a_number_at(*steps):
    """`ReconstructionLoss.__call__`, its terms NaN at these calls, counted from 1."""
    calls, original = [], train.ReconstructionLoss.__call__

    def call(self, prediction, images, mask, void=None):
        terms = original(self, prediction, images, mask, void)
        if torch.is_grad_enabled():  # not in validation
            calls.append(1)
        factor = torch.nan if torch.is_grad_enabled() and len(calls) in steps else 1.0
        return {name: term * factor for name, term in terms.items()}

    return call


def test_a_loss_that_is_no_number_stops_with_step_images_and_the_last_good_checkpoint(config, monkeypatch):
    monkeypatch.setattr(train.ReconstructionLoss, "__call__", not_a_number_at(5))
    with pytest.raises(
        FloatingPointError, match=r"step 5: loss nan; its images: \d\d.npy, .*step 3 in .*on-nan skip"
    ) as e:
        train.train(config)
    epoch = train.StepSampler(range(len(sources.load_images(config)[0])), 4, 6, 0, 4)
    names = [sources.load_images(config)[0].names[i] for i in next(iter(epoch))]
    assert ", ".join(names) in str(e.value)
    assert load_tensors(config.out / "state.safetensors")[1]["step"] == 3
    assert all(tensor.isfinite().all() for tensor in weights(config.out / "model.safetensors").values())


def test_such_a_step_is_left_out_when_asked_and_said_so(config, monkeypatch, capsys):
    monkeypatch.setattr(train.ReconstructionLoss, "__call__", not_a_number_at(2, 5))
    path = train.train(replace(config, on_nan="skip"))
    assert all(tensor.isfinite().all() for tensor in weights(path).values())
    said = capsys.readouterr().err
    assert all(f"step {step}: loss nan; its images: " in said for step in (2, 5))
    assert "; left out" in said
    assert all(np.isfinite(row["train_loss"]) for row in read_log(config.out / "log.csv"))


def test_leaving_out_every_step_is_given_up(config, monkeypatch):
    monkeypatch.setattr(train.ReconstructionLoss, "__call__", not_a_number_at(*range(2, 99)))
    with pytest.raises(FloatingPointError, match="step 22: loss nan"):
        train.train(replace(config, steps=40, on_nan="skip", eval_every=40))


@pytest.mark.parametrize("damage", ["cut", "bit", "gone"])
def test_a_damaged_state_is_told_of_and_the_one_before_is_used(config, tmp_path, capsys, damage):
    whole = weights(train.train(replace(config, steps=9)))
    half = replace(config, out=tmp_path / "half", steps=9)
    train.train(replace(half, steps=6))
    path = half.out / "state.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "bit":
        data[-100] ^= 4
    path.write_bytes(data[:-9] if damage == "cut" else data)
    if damage == "gone":
        path.unlink()
    capsys.readouterr()
    resumed = train.train(replace(half, resume=True))
    said = capsys.readouterr().err
    assert ("going on from state-1.safetensors, step 3" in said) == (damage != "gone")
    assert load_tensors(half.out / "state-1.safetensors")[1]["step"] == 6
    # the rate depends on the length asked for, so the first six steps were others; from a rerun they are the same
    again = replace(config, out=tmp_path / "again", steps=9)
    train.train(replace(again, steps=6))
    (again.out / "state.safetensors").unlink()
    assert same(weights(train.train(replace(again, resume=True))), weights(resumed))
    assert not same(whole, weights(resumed))


def test_nothing_whole_to_resume_from_is_said_with_its_cure(config):
    train.train(config)
    for path in config.out.glob("state*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        ValueError, match=r"holds no whole state .*state.safetensors is .*state-1.* start anew .*--init"
    ):
        train.train(replace(config, resume=True, steps=9))


def test_the_last_states_and_the_best_model_are_kept(config, monkeypatch):
    losses = iter([0.5, 0.2, 0.4, 0.3])
    original = Validation.__call__
    monkeypatch.setattr(
        train.Validation, "__call__", lambda self, *args: original(self, *args) | {"val_loss": next(losses)}
    )
    train.train(replace(config, steps=8, eval_every=2, keep=3))
    steps = {path.name: load_tensors(path)[1]["step"] for path in config.out.glob("*.safetensors")}
    assert steps == {
        "model.safetensors": 8, "best.safetensors": 4,
        "state.safetensors": 8, "state-1.safetensors": 6, "state-2.safetensors": 4,
    }  # fmt: skip


def test_checkpoints_beyond_those_to_keep_go_when_fewer_are_kept(config):
    train.train(replace(config, steps=4, eval_every=1, keep=4))
    train.train(replace(config, steps=5, eval_every=1, keep=2, resume=True))
    states = {path.name: load_tensors(path)[1]["step"] for path in config.out.glob("state*.safetensors")}
    assert states == {"state.safetensors": 5, "state-1.safetensors": 4}


@pytest.mark.parametrize("fails", [{1}, {2}, {1, 2}])
def test_a_full_disk_is_told_of_and_the_run_goes_on(config, monkeypatch, capsys, fails):
    calls, original = [], train.save_run

    def full(*args):
        calls.append(1)
        if len(calls) in fails:
            raise OSError(28, "No space left on device")
        original(*args)

    monkeypatch.setattr(train, "save_run", full)
    if 2 in fails:
        step, cure = (0, "start anew") if 1 in fails else (3, "--resume")
        with pytest.raises(OSError, match=rf"is of step {step}: .*No space left.*{cure}"):
            train.train(config)
        assert (config.out / "state.safetensors").exists() == (1 not in fails)
    else:
        train.train(config)
        assert load_tensors(config.out / "state.safetensors")[1]["step"] == 6
        assert "step 3: cannot write" in capsys.readouterr().err


def test_other_settings_are_taken_when_they_are_meant(config):
    train.train(config)
    with pytest.raises(ValueError, match=r"lr 0.004 -> 0.001; .*or --changed to mean it"):
        train.train(replace(config, resume=True, steps=8, lr=1e-3))
    train.train(replace(config, resume=True, steps=8, lr=1e-3, changed=True))
    assert read_config(config.out).lr == 1e-3
    with pytest.raises(ValueError, match=r"optimizer muon -> adamw; resume with the same settings$"):
        train.train(replace(config, resume=True, steps=9, optimizer="adamw", changed=True))
    with pytest.raises(ValueError, match=r"lr 0.001 -> 0.002; .*or --changed to mean it"):  # once, not for ever
        train.train(replace(read_config(config.out), resume=True, steps=9, lr=2e-3))


def test_another_loss_may_be_meant_in_the_middle_of_an_interval(config, perceptual, monkeypatch):
    """Terms come, then go again; each row of the log holds what its loss has."""
    real = train._Run.step

    def stopped_at(step):
        def call(run, images, voids, stop):
            gradients, stopping = real(run, images, voids, stop)
            return gradients, stopping or run.done == step

        return call

    for then, now, step in ((config, perceptual, 4), (perceptual, config, 7)):
        with monkeypatch.context() as patch:
            patch.setattr(train._Run, "step", stopped_at(step))
            with pytest.raises(KeyboardInterrupt):
                train.train(replace(then, resume=step > 4, steps=9))
        train.train(replace(now, resume=True, changed=True, steps=step + 2 if step == 4 else 9))
    rows = read_log(config.out / "log.csv")
    assert [(row["step"], f"val_{TERMS[0]}" in row) for row in rows] == [(3, False), (6, True), (9, False)]


@pytest.mark.parametrize("on_nan", ["stop", "skip"])
def test_weights_beyond_numbers_stop_the_run_and_are_never_saved(config, on_nan):
    train.train(config)
    diverging = replace(config, resume=True, changed=True, lr=1e30, on_nan=on_nan, steps=40, eval_every=1, keep=99)
    with pytest.raises(FloatingPointError, match=r"grown beyond numbers. Last good checkpoint: step \d+ in .*Lower"):
        train.train(diverging)
    with pytest.raises(FloatingPointError, match=r"Last good checkpoint: none yet. .* and start anew$"):
        train.train(replace(diverging, resume=False, out=config.out.parent / "new"))
    for path in config.out.glob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in weights(path).values()), path


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_blocks_learn_the_same(config, monkeypatch, backend):
    if backend == "inductor" and not shutil.which("g++"):
        pytest.skip("no C++ compiler is installed")
    compiled, real = [], torch.nn.Module.compile

    def compile_block(module):
        compiled.append(type(module).__name__)
        real(module, backend=backend)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_block)
    train.train(config)
    assert compiled == []
    train.train(replace(config, out=config.out.parent / "compiled", compile=True))
    assert compiled == ["Block"] * (config.model.depth + config.model.decoder_depth)
    rows = [read_log(run / "log.csv") for run in (config.out, config.out.parent / "compiled")]
    for plain, other in zip(*rows, strict=True):
        assert other["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-4)
        assert other["val_loss"] == pytest.approx(plain["val_loss"], rel=1e-4)
    assert (
        weights(config.out / "model.safetensors").keys()
        == weights(config.out.parent / "compiled" / "model.safetensors").keys()
    )
