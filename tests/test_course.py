"""Exercise checks, predictions, pictures and photos: what the lessons share."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from IPython.core.formatters import DisplayFormatter
from matplotlib.figure import Figure
from tiny import TINY

import maelib.course
from maelib.course import check, figure, own_photos, predict, reveal
from maelib.course.check import Stopped, Verdict, cases, difference
from maelib.course.diagram import architecture
from maelib.course.exercises import EXERCISES
from maelib.patches import patchify
from maelib.transfer.compare import random_weights

# --------------------------------------------------------------------------------------------------------- exercises


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_passes_and_every_foreseen_mistake_gets_a_hint_of_its_own(name: str, seed: int) -> None:
    exercise = EXERCISES[name]
    assert check(name, exercise.solution, seed) == Verdict(True, f"Exercise {name}: passed. {exercise.praise}")
    for mistake, hint in exercise.mistakes:
        assert check(name, mistake, seed) == Verdict(False, f"Exercise {name}: not yet. {hint}")
    assert len({hint for _, hint in exercise.mistakes}) == len(exercise.mistakes) >= 3


@pytest.mark.parametrize("name", EXERCISES)
def test_a_secret_seed_draws_other_cases_which_it_draws_again(name: str) -> None:
    files = [io.BytesIO() for _ in range(3)]
    for seed, file in zip((0, 7, 7), files, strict=True):
        torch.save(cases(name, seed), file)
    known, secret, again = (file.getvalue() for file in files)
    assert secret == again != known
    assert len(cases(name)) >= 3


def answer_not_implemented(mask: torch.Tensor) -> torch.Tensor:
    raise NotImplementedError


def answer_that_writes_into_its_argument(mask: torch.Tensor) -> torch.Tensor:
    mask.logical_not_()
    return 1 - mask.float().mean(1)


def answer_that_fails(mask: torch.Tensor) -> torch.Tensor:
    return mask.float() @ torch.ones(3)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        *((stub, "not attempted yet") for stub in (answer_not_implemented, lambda mask: ..., lambda mask: None, ...)),
        (answer_that_writes_into_its_argument, "not yet. It changes its argument `mask`"),
        (answer_that_fails, "stops with RuntimeError at `return mask.float() @ torch.ones(3)`"),
        (lambda mask, ratio: mask, "stops with TypeError"),
        (lambda mask: "half", "returns a str; a number tensor of shape (3,) is wanted"),
        (lambda mask: mask[:, 0], "returns a bool tensor of shape (3,); a number tensor"),
        (lambda mask: torch.full((len(mask),), torch.nan), "returns nan at [0]; 0."),
        (0.5, "returns a single number"),
    ],
)
def test_an_untouched_stub_or_an_unforeseen_mistake_is_described(answer: object, words: str) -> None:
    verdict = check("00.1", answer)
    assert not verdict.passed
    assert words in verdict.text


@pytest.mark.parametrize(
    ("got", "want", "equal"),
    [
        (0.25, torch.tensor(0.25), True),
        ([1, 2], torch.tensor([1.0, 2.0]), True),
        (torch.tensor([True]), torch.tensor([1]), False),
        (torch.tensor([1.0]), torch.tensor(1.0), False),
        (torch.tensor(1.00001), torch.tensor(1.0), True),  # single precision may be summed in any order
        (14_700_000, 14_700_001, False),  # whole numbers are counts
        (14_700_001.0, 14_700_001, True),
        (Stopped("ValueError", "a", "here"), Stopped("ValueError", "a"), True),
        (Stopped("ValueError", "a"), Stopped("ValueError", "b"), False),
        (1, Stopped("ValueError", "a"), False),
        (np.arange(3)[::-1], torch.tensor([2, 1, 0]), True),
    ],
)
def test_difference_is_none_for_equal_outcomes_alone(got: object, want: object, equal: bool) -> None:
    assert (difference(got, want) is None) is equal


def test_numbers_are_printed_until_they_differ() -> None:
    assert difference(14_700_000, 14_700_001) == "It returns 14700000; 14700001 is wanted."
    assert difference(0.50001, 0.5009) == "It returns 0.5; 0.501 is wanted."
    assert difference(100.12, 100.42) == "It returns 100.1; 100.4 is wanted."


# ------------------------------------------------------------------------------------------------------- predictions


def test_predictions_are_compared_and_scored_once_each() -> None:
    for name, pick in {"t.a": "this", "t.b": "that", "t.c": None}.items():
        predict(name, "Which?", ["this", "that"]).choice.value = pick
    assert reveal("t.a", "this") == Verdict(True, "Prediction t.a: right. Answer: this. Score 1/1.")
    assert reveal("t.b", "this") == Verdict(False, "Prediction t.b: you expected: that. Answer: this. Score 1/2.")
    assert reveal("t.c", "that") == Verdict(False, "Prediction t.c: none made. Answer: that.")
    assert reveal("t.a", "this").text.endswith("Score 1/2."), "a prediction that is looked at twice counts once"
    predict("t.a", "Which?", ["this", "that"])
    assert "none made" in reveal("t.a", "this").text, "a prompt that runs again starts anew"


def test_a_prompt_reads_as_plain_text() -> None:
    data, _ = DisplayFormatter().format(predict("t.d", "Which?" * 40, ["this", "that"]))
    assert data["text/plain"] == f"Predict t.d: {'Which?' * 40}\n  ( ) this\n  ( ) that"


@pytest.mark.parametrize(("name", "answer"), [("t.e", "other"), ("t.z", "this")])
def test_an_answer_that_was_no_option_is_refused(name: str, answer: str) -> None:
    predict("t.e", "Which?", ["this", "that"])
    with pytest.raises(ValueError, match=f"'{answer}' .* '{name}'.* run the cell"):
        reveal(name, answer)


# ----------------------------------------------------------------------------------------------- pictures and photos


def test_a_figure_carries_its_caption_under_it_and_as_alt_text() -> None:
    caption = 'Figure 1. An "empty" figure, 1 < 2.'
    data, _ = DisplayFormatter().format(figure(Figure(figsize=(1, 1)), caption))
    assert data.keys() == {"text/plain", "text/html"}, "the picture is stored once"
    assert data["text/plain"] == caption
    page = BeautifulSoup(data["text/html"], "html.parser")
    assert page.img["alt"] == page.figcaption.text == caption
    assert page.img["src"].startswith("data:image/png;base64,iVBORw0KGgo")  # PNG's first bytes


@pytest.mark.parametrize("class_token", [False, True])
def test_the_architecture_states_the_shapes_that_the_model_computes(class_token: bool) -> None:
    config = replace(TINY, class_token=class_token, decoder_embed_dim=2 * TINY.embed_dim)
    model, images, mask = random_weights(config, 0), torch.rand(2, 3, *[config.img_size] * 2), torch.arange(2 * 16) % 16
    shapes = [images.shape, patchify(images, config.patch_size).shape]
    parts = [model.patch_embed, model.blocks[0], model.norm, model.decoder_embed, model.decoder_blocks[0]]
    for part in [*parts, model.decoder_norm]:
        part.register_forward_hook(lambda part, inputs, output: shapes.append(output.shape))
    shapes += [model(images, mask.reshape(2, 16) < 5).shape, images.shape]
    stated = [text.get_text() for axis in architecture(config, 5).axes for text in axis.texts]
    assert [text for text in stated if text.startswith("(")] == [f"(B, {str(tuple(s))[4:]}" for s in shapes]


def test_own_photos_lie_in_the_repository_or_else_beside_the_notebook(tmp_path, monkeypatch) -> None:
    photos = ["a.jpeg", "b.PNG", "c.webp", "d.jfif"]
    others = ["a_mask.png", "a_repaired.jpeg", "a_side_by_side.png", "README.md", "._b.PNG"]
    for folder in ("data/photos", "beside"):
        (tmp_path / folder).mkdir(parents=True)
        for name in photos + others:
            (tmp_path / folder / name).touch()
    monkeypatch.chdir(tmp_path / "beside")
    for data, folder in (("data", "data/photos"), ("installed", "beside")):
        monkeypatch.setattr(maelib.course, "data_folder", lambda data=data: tmp_path / data)
        assert own_photos() == [tmp_path / folder / name for name in photos]
