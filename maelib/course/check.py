"""What the notebooks share: predictions, exercise checks, figures with alt text, photos of your own.

Nothing here prints. Each call returns an object that the notebook shows as a line of text, a prompt or a picture.
"""

import io
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets
import torch

from maelib.course.exercises import EXERCISES
from maelib.files import data_folder

if TYPE_CHECKING:
    import matplotlib.figure


@dataclass(frozen=True)
class Verdict:
    """A line of text for the learner, and whether it is good news."""

    passed: bool
    text: str

    def __repr__(self) -> str:
        return self.text


# ------------------------------------------------------------------------------------------------------- predictions


class Prompt(ipywidgets.VBox):
    """A question with answers to pick from; reads as plain text where no kernel runs."""

    def __init__(self, name: str, question: str, options: list[str]) -> None:
        self.text = f"Predict {name}: {question}"
        self.choice = ipywidgets.RadioButtons(options=options, value=None, layout={"width": "max-content"})
        super().__init__([ipywidgets.Label(self.text), self.choice])

    def __repr__(self) -> str:
        return "\n".join([self.text, *(f"  ( ) {option}" for option in self.choice.options)])

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return {**super()._repr_mimebundle_(**kwargs), "text/plain": repr(self)}  # ipywidgets cuts it at 110 letters


_prompts: dict[str, Prompt] = {}
_hits: dict[str, bool] = {}


def predict(name: str, question: str, options: list[str]) -> Prompt:
    """Ask for a guess, to be picked before the cells that show the answer; `reveal` compares."""
    _hits.pop(name, None)
    _prompts[name] = Prompt(name, question, options)
    return _prompts[name]


def reveal(name: str, answer: str) -> Verdict:
    """Compare the guess made at the prompt `name` with `answer`, one of its options, and tell the score so far.

    Raises
    ------
    ValueError
        When `answer` is none of the options, or the prompt was not run.
    """
    options = _prompts[name].choice.options if name in _prompts else ()
    if answer not in options:
        raise ValueError(f"answer {answer!r} is no option of prompt {name!r}: {list(options)}; run its cell first")
    guess = _prompts[name].choice.value
    if guess is None:
        return Verdict(False, f"Prediction {name}: none made. Answer: {answer}.")
    _hits[name] = guess == answer
    word = "right" if _hits[name] else f"you expected: {guess}"
    return Verdict(
        _hits[name], f"Prediction {name}: {word}. Answer: {answer}. Score {sum(_hits.values())}/{len(_hits)}."
    )


# --------------------------------------------------------------------------------------------------------- exercises


def check(name: str, answer: Any) -> Verdict:
    """Try the answer to exercise `name`, a function or a value, on the exercise's cases.

    Returns
    -------
    Verdict
        Passed with a confirmation; otherwise "not attempted yet", or a hint aimed at the mistake. What the learner's
        code raises becomes a hint too.

    Raises
    ------
    ValueError
        When there is no exercise of that name.
    """
    if name not in EXERCISES:
        raise ValueError(f"there is no exercise {name!r}; the exercises are {', '.join(EXERCISES)}")
    exercise = EXERCISES[name]
    for first, (given, kept) in enumerate(zip(exercise.cases(), exercise.cases(), strict=True)):
        got = _outcome(answer, given)
        untouched = got is None or got is ... or (isinstance(got, NotImplementedError) and not got.args)
        if first == 0 and untouched:
            return Verdict(False, f"Exercise {name}: not attempted yet (nothing is returned).")
        problem = difference(got, exercise.solution(*kept))
        if problem is None:
            continue
        for mistake, hint in exercise.mistakes:
            if difference(got, _outcome(mistake, kept)) is None:
                return Verdict(False, f"Exercise {name}: not yet. {hint}")
        return Verdict(False, f"Exercise {name}: not yet. {problem}")
    return Verdict(True, f"Exercise {name}: passed. {exercise.praise}")


def _outcome(answer: Any, given: tuple) -> Any:
    """What `answer` returns for the arguments `given`, or the exception that it raises."""
    try:
        return answer(*given) if callable(answer) else answer
    except Exception as error:
        return error


def difference(got: Any, want: Any) -> str | None:
    """Say how `got` differs from `want`, a number, a tensor or an exception; None when it does not."""
    if isinstance(got, Exception) or isinstance(want, Exception):
        return None if type(got) is type(want) and str(got) == str(want) else _where_raised(got)
    want = torch.as_tensor(want)
    try:
        got = torch.as_tensor(got)
    except (TypeError, ValueError, RuntimeError):
        return f"It returns a {type(got).__name__}; a {_kind(want)} is wanted."
    if got.shape != want.shape or (got.dtype == torch.bool) != (want.dtype == torch.bool):
        return f"It returns a {_kind(got)}; a {_kind(want)} is wanted."
    wrong = ~torch.isclose(got.double(), want.double(), rtol=1e-3, atol=1e-5)
    if not wrong.any():
        return None
    place = tuple(wrong.nonzero()[0].tolist())
    where = f" at {list(place)}" if place else ""
    return f"It returns {got[place].item():.3g}{where}; {want[place].item():.3g} is wanted."


def _kind(value: torch.Tensor) -> str:
    kind = {True: "bool", False: "number"}[value.dtype == torch.bool]
    return f"{kind} tensor of shape {tuple(value.shape)}" if value.ndim else f"single {kind}"


def _where_raised(error: Any) -> str:
    """Describe an exception with the line of the learner's code that raised it."""
    if not isinstance(error, Exception):
        return f"It returns a {type(error).__name__}."
    library = Path(__file__).parents[1]
    frames = [f for f in traceback.extract_tb(error.__traceback__) if library not in Path(f.filename).parents]
    at = f" at `{frames[0].line}`" if frames and frames[0].line else ""
    return f"It stops with {type(error).__name__}{at}: {error}"


# ----------------------------------------------------------------------------------------------- figures and photos


@dataclass(frozen=True)
class Picture:
    """A PNG file that shows itself in a notebook and says in words what it shows."""

    png: bytes
    alt: str

    def __repr__(self) -> str:
        return self.alt

    def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
        return self.png, {"alt": self.alt}


def figure(drawing: "matplotlib.figure.Figure", alt: str) -> Picture:
    """Turn a figure of `maelib.plots` into a picture with alt text."""
    file = io.BytesIO()
    drawing.savefig(file, format="png")
    return Picture(file.getvalue(), alt)


def own_photos() -> list[Path]:
    """Photos in the repository's `data/photos`, or beside the notebook where there is no repository, as on Colab.

    Files named `..._mask` and `..._repaired` belong to photos and are left out.
    """
    folder = data_folder() / "photos"
    files = sorted((folder if folder.is_dir() else Path.cwd()).iterdir())
    pictures = [file for file in files if file.suffix.lower() in {".jpg", ".jpeg", ".png"}]
    return [file for file in pictures if not file.stem.endswith(("_mask", "_repaired"))]
