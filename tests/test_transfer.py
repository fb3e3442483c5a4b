"""Transfer: few labels that are fair, heads that learn, encoders frozen or trained, and comparisons that repeat."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchmetrics.functional.classification as oracle
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from maelib.cli import main
from maelib.data.augment import to_float
from maelib.data.images import TEST_SEEDS
from maelib.data.sources import VALIDATION_SEED
from maelib.facades import LABELS, STYLES
from maelib.model import MAEConfig
from maelib.transfer import compare as transfer
from maelib.transfer import labelled
from maelib.transfer.classifier import Classifier, Finetuning, confusion, finetune, probe
from maelib.transfer.compare import (
    FinetuneConfig,
    ProbeConfig,
    compare,
    random_weights,
    standard_error,
    table,
)
from maelib.transfer.labelled import (
    DATA_SETS,
    IGNORED,
    LABEL_SEEDS,
    Labelled,
    mean_accuracy,
    mean_iou,
    patch_targets,
    pick_balanced,
)
from maelib.weights.checkpoint import save_model

SMALL = MAEConfig(img_size=32, embed_dim=16, depth=1, num_heads=2, decoder_embed_dim=16, decoder_depth=1,
                  decoder_num_heads=1)  # fmt: skip
MODEL = random_weights(SMALL, 0)
NOWHERE = Path("nowhere")


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def toy(count, seed, per_patch=False):
    """Noise, reddish for class 0 and bluish for class 1; whole images or patches of 8 px."""
    rng = np.random.default_rng(seed)
    targets = rng.permutation(np.arange(count * (16 if per_patch else 1)) % 2).reshape(count, -1)
    side = 4 if per_patch else 1
    blue = targets.reshape(count, side, side).repeat(32 // side, 1).repeat(32 // side, 2)
    images = rng.integers(60, 140, (count, 3, 32, 32))
    images[:, 0] += 60 * (1 - blue)
    images[:, 2] += 60 * blue
    targets = torch.from_numpy(targets if per_patch else targets[:, 0])
    return Labelled(torch.from_numpy(images.astype(np.uint8)), targets)


@pytest.fixture
def small_checkpoint(tmp_path):
    save_model(tmp_path / "small.safetensors", MODEL, {})
    return tmp_path / "small.safetensors"


# ------------------------------------------------------------------------------------------------ few labels


@given(st.lists(st.integers(0, 4), max_size=60), st.integers(1, 40))
def test_a_balanced_pick_holds_the_classes_equally_often_or_is_refused(classes, labels):
    counts = np.bincount(classes, minlength=5)
    wanted = [labels // 5 + (k < labels % 5) for k in range(5)]
    if labels < 5 or (counts < wanted).any():
        with pytest.raises(ValueError, match=f"labels {labels} "):
            pick_balanced(enumerate(classes), labels, 5)
        return
    picked = pick_balanced(enumerate(classes), labels, 5)
    assert [Counter(label for _, label in picked)[k] for k in range(5)] == wanted
    assert len({item for item, _ in picked}) == labels
    assert all(classes[item] == label for item, label in picked)


def test_facades_to_learn_from_are_others_for_each_seed_and_never_tested_or_pre_trained_on(monkeypatch):
    seeds = []

    def draw(seed, size):
        seeds.append(seed)
        return original(seed, size)

    original = labelled.draw_facade
    monkeypatch.setattr(labelled, "draw_facade", draw)
    drawn = {}
    for name in ("style", "segmentation"):
        for seed in (0, 1, 99):
            seeds.clear()
            few = DATA_SETS[name].few(12, seed, SMALL, NOWHERE)
            assert few.images.shape == (12, 3, 32, 32)
            drawn[name, seed] = set(seeds)
        seeds.clear()
        assert DATA_SETS[name].test(5, SMALL, NOWHERE).images.shape == (5, 3, 32, 32)
        assert set(seeds) <= set(TEST_SEEDS)
    for name in ("style", "segmentation"):
        assert not drawn[name, 0] & drawn[name, 1] | drawn[name, 1] & drawn[name, 99]
    assert all(seed in LABEL_SEEDS for seeds in drawn.values() for seed in seeds)
    assert not set(TEST_SEEDS) & set(LABEL_SEEDS)
    assert LABEL_SEEDS.stop <= VALIDATION_SEED * 1_000_000
    assert LABEL_SEEDS.start >= 2_000_000  # training draws from the first million


def test_few_styles_are_balanced_and_named_rightly():
    few = DATA_SETS["style"].few(18, 3, SMALL, NOWHERE)
    assert torch.bincount(few.targets).tolist() == [3] * len(STYLES)
    again = DATA_SETS["style"].few(18, 3, SMALL, NOWHERE)
    assert torch.equal(few.images, again.images)
    assert torch.equal(few.targets, again.targets)


def test_a_patch_is_a_door_or_a_window_from_a_quarter_of_it_and_ignored_where_void_touches_it():
    labels = np.full((1, 8, 20), LABELS.index("wall"), np.uint8)
    labels[0, :2, :2] = LABELS.index("window")  # exactly a quarter of patch 0
    labels[0, :3, 4:5] = LABELS.index("window")  # less of patch 1
    labels[0, :4, 8:12] = LABELS.index("window")  # all of patch 2, but for the door
    labels[0, :2, 8:10] = LABELS.index("door")
    labels[0, :4, 12:16] = LABELS.index("door")  # all of patch 3, but for a pixel of void
    labels[0, 3, 15] = LABELS.index("void")
    assert patch_targets(labels, 4).tolist() == [[1, 0, 2, IGNORED, 0] + [0] * 5]


class FakeCifar:
    """The shape of torchvision's CIFAR-10; grey levels say which image and part a picture is."""

    def __init__(self, root, train, download):
        count = 60 if train else 30
        self.data = np.full((count, 32, 32, 3), np.arange(count)[:, None, None, None], np.uint8) + 100 * train
        self.targets = (np.arange(count) % 10).tolist()


def test_cifar10_is_balanced_and_its_parts_are_kept_apart(monkeypatch, tmp_path):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", FakeCifar)
    few = DATA_SETS["cifar10"].few(20, 0, SMALL, tmp_path)
    assert torch.bincount(few.targets).tolist() == [2] * 10
    assert few.images.min() >= 100
    assert torch.equal((few.images[:, 0, 0, 0] - 100) % 10, few.targets)
    other = DATA_SETS["cifar10"].few(20, 1, SMALL, tmp_path)
    assert not torch.equal(few.images, other.images)
    test = DATA_SETS["cifar10"].test(7, SMALL, tmp_path)
    assert test.images[:, 0, 0, 0].tolist() == list(range(7))
    with pytest.raises(ValueError, match="labels 70 are more than there are; use 60 or fewer"):
        DATA_SETS["cifar10"].few(70, 0, SMALL, tmp_path)


def test_cifar10_that_cannot_be_had_is_named_with_the_cure(monkeypatch, tmp_path):
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    with pytest.raises(FileNotFoundError, match=r"CIFAR-10 is not in .* put cifar-10-python\.tar\.gz there"):
        DATA_SETS["cifar10"].few(20, 0, SMALL, tmp_path)


# --------------------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("per_patch", [False, True])
def test_scores_agree_with_torchmetrics_and_ignore_what_is_ignored(per_patch):
    torch.manual_seed(0)
    shape = (40, 16) if per_patch else (40,)
    targets = torch.randint(0, 3, shape)
    targets[::5] = IGNORED
    logits = torch.randn(*shape, 3)
    classifier = SimpleNamespace(head=SimpleNamespace(out_features=3), in_batches=lambda function, images: logits)
    counts = confusion(classifier, Labelled(torch.empty(0), targets))
    assert counts.sum() == (targets != IGNORED).sum()
    same_terms = {"num_classes": 3, "average": "macro", "ignore_index": IGNORED}
    predicted = logits.argmax(-1).flatten()
    accuracy = oracle.multiclass_accuracy(predicted, targets.flatten(), **same_terms)
    iou = oracle.multiclass_jaccard_index(predicted, targets.flatten(), **same_terms)
    assert mean_accuracy(counts) == pytest.approx(accuracy.item())
    assert mean_iou(counts) == pytest.approx(iou.item())


def test_a_class_that_nothing_shows_counts_in_no_score():
    counts = torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    assert mean_accuracy(counts) == pytest.approx((3 / 4 + 1) / 2)
    assert mean_iou(counts) == pytest.approx((3 / 4 + 4 / 5) / 2)


# ---------------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize("per_patch", [False, True])
def test_a_probe_separates_what_is_separable_and_leaves_the_encoder_as_it_is(per_patch):
    before = state(MODEL)
    classifier = probe(MODEL, toy(16, 0, per_patch), 2)
    assert same(state(MODEL), before)
    assert same(state(classifier.encoder), before)
    assert mean_accuracy(confusion(classifier, toy(40, 1, per_patch))) == 1


def test_no_head_near_the_probes_is_better():
    few, penalty = toy(12, 2), 0.02
    classifier = probe(MODEL, few, 2, penalty)
    features = classifier.in_batches(classifier.features, few.images)
    standard = F.batch_norm(features, None, None, training=True, eps=1e-12)
    weight = classifier.head.weight.detach() * features.std(dim=0, correction=0)
    bias = classifier.head(features.mean(dim=0)).detach()
    torch.testing.assert_close(standard @ weight.T + bias, classifier.head(features).detach(), rtol=0, atol=1e-4)

    def loss(weight, bias):
        return F.cross_entropy(standard @ weight.T + bias, few.targets) + penalty / 2 * weight.square().sum()

    for seed in range(20):
        step = 0.05 * torch.randn(2, 17, generator=torch.Generator().manual_seed(seed))
        assert loss(weight, bias) < loss(weight + step[:, :-1], bias + step[:, -1])


def test_finetuning_trains_a_copy_of_the_encoder_and_learns():
    before, how = state(MODEL), Finetuning(steps=40, batch_size=8, lr=3e-3)
    classifier = finetune(MODEL, toy(16, 0), 2, how, 0)
    assert same(state(MODEL), before)
    after = state(classifier.encoder)
    frozen = {name for name in before if torch.equal(before[name], after[name])}
    assert frozen == {name for name in before if "decoder" in name} | {"mask_token", "pos_embed"}
    assert mean_accuracy(confusion(classifier, toy(40, 1))) > 0.9


def test_seeds_of_finetuning_repeat_and_differ_and_the_global_generator_is_left_alone():
    how, before = Finetuning(steps=3, batch_size=4), torch.get_rng_state()
    first, again, other = (state(finetune(MODEL, toy(8, 0), 2, how, seed)) for seed in (0, 0, 1))
    random_weights(SMALL, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first, again)
    assert not same(first, other)


def test_ignored_patches_teach_nothing():
    few = toy(8, 0, per_patch=True)
    void = Labelled(few.images, torch.full_like(few.targets, IGNORED))
    classifier = finetune(MODEL, void, 2, Finetuning(steps=3, batch_size=4), 0)
    assert same(state(classifier.encoder), state(MODEL))
    both = Labelled(torch.cat([few.images, few.images.flip(0)]), torch.cat([few.targets, void.targets]))
    assert same(state(probe(MODEL, few, 2)), state(probe(MODEL, both, 2)))


def test_an_image_of_another_size_is_resampled_and_the_class_token_is_no_patch():
    model = random_weights(replace(SMALL, class_token=True), 0)
    image = to_float(toy(1, 0).images)
    assert Classifier(model, 3, per_patch=True)(image).shape == (1, 16, 3)
    large = image.repeat_interleave(2, 2).repeat_interleave(2, 3)
    features = Classifier(model, 3, per_patch=False).features
    assert features(large).shape == (1, 16)
    flat = torch.full((1, 3, 1, 1), 0.4)
    torch.testing.assert_close(features(flat.expand(-1, -1, 20, 20)), features(flat.expand(-1, -1, 32, 32)))


def test_a_segmentation_head_learns_more_than_to_say_other():
    shape = replace(SMALL, img_size=48, patch_size=4, embed_dim=32)
    few, test = DATA_SETS["segmentation"].few(24, 0, shape, NOWHERE), DATA_SETS["segmentation"].test(40, shape, NOWHERE)
    classifier = finetune(random_weights(shape, 0), few, 3, Finetuning(steps=80, batch_size=8, lr=5e-3), 0)
    learned = confusion(classifier, test)
    nothing = torch.zeros(3, 3)
    nothing[:, 0] = learned.sum(dim=1)
    assert mean_iou(learned) > mean_iou(nothing) + 0.02  # 0.05 measured
    assert mean_accuracy(learned) > 1 / 3 + 0.02  # which is what any answer gets that looks at nothing


# ----------------------------------------------------------------------------------------------- comparison


@pytest.mark.parametrize("config", [ProbeConfig("style"), FinetuneConfig("segmentation", how=Finetuning(steps=2))])
def test_a_comparison_gives_the_same_twice(config, small_checkpoint):
    config = replace(config, checkpoint=small_checkpoint, labels=6, seeds=2, test=12)
    first, again = compare(config).scores, compare(config).scores
    assert list(first) == ["scratch", "pretrained"]
    assert same(first, again)


def test_pre_trained_means_the_checkpoint_and_from_scratch_does_not(small_checkpoint, monkeypatch):
    seen = []

    def spy(encoder, few, classes, penalty):
        seen.append((state(encoder), few.images))
        return probe(encoder, few, classes, penalty)

    monkeypatch.setattr(transfer, "probe", spy)
    compare(ProbeConfig("style", small_checkpoint, labels=6, seeds=2, test=6))
    (scratch, few), (pretrained, same_few), (other_scratch, other_few), (again, _) = seen
    assert same(pretrained, state(MODEL))
    assert same(again, state(MODEL))
    assert not same(scratch, other_scratch)
    assert torch.equal(few, same_few)
    assert not torch.equal(few, other_few)


def test_means_and_standard_errors_are_those_of_the_textbook():
    scores = {"scratch": torch.tensor([0.1, 0.2, 0.3]), "pretrained": torch.tensor([0.5, 0.6, 0.7])}
    assert standard_error(scores["scratch"]) == pytest.approx(0.1 / 3**0.5)
    result = transfer.Result(ProbeConfig("style", seeds=3), scores, [])
    row = table([result]).splitlines()[-1]
    assert row.endswith("| 20.0 ± 5.8 | 60.0 ± 5.8 | +40.0 ± 0.0 |")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "gold"}, r"'gold' is no data set with labels; there is style: .*; segmentation: .*; cifar10: "),
        ({"labels": 0}, "labels 0 is not positive; use 1 or more"),
        ({"seeds": 101}, "seeds 101 are more than there are; use 100 or fewer"),
        ({"penalty": 0.0}, r"penalty 0\.0 lets the head grow without end"),
    ],
)
def test_bad_configurations_are_named_with_their_cure(options, message):
    with pytest.raises(ValueError, match=message):
        ProbeConfig(**{"data": "style"} | options)


def test_labels_that_cannot_be_had_are_refused_before_anything_is_drawn(small_checkpoint, monkeypatch):
    monkeypatch.setattr(labelled, "draw_facade", None)
    for labels, message in ((5, "labels 5 cannot show each of 6 classes; use 6 or more"), (3001, "the 3000 facades")):
        with pytest.raises(ValueError, match=message):
            compare(ProbeConfig("style", small_checkpoint, labels=labels))
    with pytest.raises(ValueError, match=r"lr 0\.0 is not positive"):
        Finetuning(lr=0.0)


def test_both_commands_run_from_the_command_line(small_checkpoint, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", FakeCifar)
    few = ["--checkpoint", str(small_checkpoint), "--seeds", "2", "--test", "10"]
    main(["probe", "cifar10", "--labels", "10", "--folder", str(tmp_path), *few])
    printed = capsys.readouterr().out
    assert "from scratch | pre-trained | gain" in printed
    assert "| probe, cifar10, labels: 10, seeds: 2 | mean accuracy of the classes |" in printed
    main(["finetune", "style", "--labels", "6", "--steps", "1", "--start", "scratch", *few])
    printed = capsys.readouterr().out
    assert "| fine-tuning, style, labels: 6, seeds: 2 |" in printed
    assert "pre-trained" not in printed
