"""Checks of exercises: an answer is tried on the cases of an exercise, and a mistake gets a hint.

Nothing here prints. `check` returns a verdict, which a notebook shows as a line of text. `attempt` and `judge` are its
two halves: the first calls the answer, the second never does, so that they can run in different processes.
"""

import inspect
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from maelib.course.exercises import EXERCISES


@dataclass(frozen=True)
class Verdict:
    """A line of text for the learner, and whether it is good news."""

    passed: bool
    text: str

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Stopped:
    """An exception that an answer raised, and the learner's line that raised it."""

    kind: str
    message: str
    line: str = field(default="", compare=False)


@dataclass(frozen=True)
class Outcome:
    """What one case gave: a value or an exception, and the names of the arguments that the answer has changed."""

    value: Any
    changed: Sequence[str] = ()


def cases(name: str, seed: int = 0) -> list[tuple]:
    """Draw fresh arguments for each trial of exercise `name`; lessons use seed 0."""
    return EXERCISES[name].cases(Generator().manual_seed(seed))


def check(name: str, answer: Any, seed: int = 0) -> Verdict:
    """Try the answer to exercise `name`, a function or a value, on the cases drawn from `seed`.

    Returns
    -------
    Verdict
        Passed with a confirmation; otherwise "not attempted yet", or a hint aimed at the mistake. An exception that
        the learner's code raises becomes a hint too, and so does an argument that it changes.
    """
    return judge(name, attempt(answer, cases(name, seed), cases(name, seed)), seed)


def attempt(answer: Any, given: list[tuple], kept: list[tuple]) -> list[Outcome]:
    """Call `answer` with each of `given`, and compare these arguments with `kept`, drawn alike, afterwards."""
    outcomes = []
    for arguments, before in zip(given, kept, strict=True):
        value = _outcome(answer, arguments)
        changed = [i for i, pair in enumerate(zip(arguments, before, strict=True)) if not _same(*pair)]
        names = list(inspect.signature(answer).parameters) if changed else []
        outcomes.append(Outcome(value, [names[i] if i < len(names) else f"argument {i + 1}" for i in changed]))
    return outcomes


def judge(name: str, outcomes: Sequence[Outcome], seed: int = 0) -> Verdict:
    """Give the verdict on what an answer to exercise `name` did with the cases drawn from `seed`."""
    if outcomes[0].value is None:
        return Verdict(False, f"Exercise {name}: not attempted yet (nothing is returned).")
    got = [outcome.value for outcome in outcomes]
    problems = [difference(*pair) for pair in zip(got, _expected(name, seed), strict=True)]
    problem = next((text for text in problems if text), None)
    changed = [argument for outcome in outcomes for argument in outcome.changed]
    if changed:
        kept = f"It changes its argument `{changed[0]}`, which the caller still needs: work on a copy."
        problem = f"{problem} {kept}" if problem else kept
    if problem is None:
        return Verdict(True, f"Exercise {name}: passed. {EXERCISES[name].praise}")
    hints = (
        hint
        for number, (_, hint) in enumerate(EXERCISES[name].mistakes)
        if any(problems) and _agree(got, _expected(name, seed, number))
    )
    return Verdict(False, f"Exercise {name}: not yet. {next(hints, problem)}")


@cache
def _expected(name: str, seed: int, mistake: int | None = None) -> list[Any]:
    """What the solution of exercise `name`, or one of the foreseen mistakes, gives for each case."""
    exercise = EXERCISES[name]
    answer = exercise.solution if mistake is None else exercise.mistakes[mistake][0]
    return [_outcome(answer, arguments) for arguments in cases(name, seed)]


def _agree(got: list[Any], mistaken: list[Any]) -> bool:
    """Whether two answers give the same everywhere; where both stop, messages may differ if one other case agrees."""
    pairs = list(zip(got, mistaken, strict=True))
    equal = [difference(*pair) is None for pair in pairs]
    stopped = [all(isinstance(value, Stopped) for value in pair) for pair in pairs]
    return any(equal) and all(e or s for e, s in zip(equal, stopped, strict=True))


def _outcome(answer: Any, arguments: tuple) -> Any:
    """What `answer` returns for `arguments`, None when it is an untouched stub, or the exception that it raises."""
    try:
        value = answer(*arguments) if callable(answer) else answer
    except Exception as error:
        if isinstance(error, NotImplementedError) and not error.args:
            return None
        library = Path(__file__).parents[1]
        frames = [f for f in traceback.extract_tb(error.__traceback__) if library not in Path(f.filename).parents]
        return Stopped(type(error).__name__, str(error), (frames[-1].line or "") if frames else "")
    return None if value is ... else value


def _same(after: Any, before: Any) -> bool:
    if isinstance(before, Tensor | np.ndarray):
        return torch.equal(torch.as_tensor(after), torch.as_tensor(before))
    if isinstance(before, dict):
        return after.keys() == before.keys() and all(_same(after[key], before[key]) for key in before)
    if isinstance(before, list):
        return len(after) == len(before) and all(map(_same, after, before))
    return True  # numbers cannot change; a model may


def difference(got: Any, want: Any) -> str | None:
    """Say how `got` differs from `want`, a number, a tensor or a `Stopped`; None when they are equal.

    Whole numbers are compared exactly, others to three digits.
    """
    if isinstance(got, Stopped):
        at = f" at `{got.line}`" if got.line else ""
        same = isinstance(want, Stopped) and got == want
        return None if same else f"It stops with {got.kind}{at}: {got.message}"
    if isinstance(want, Stopped):
        return f"It returns a {type(got).__name__}; a {want.kind} is wanted."
    want = torch.as_tensor(want)
    try:
        got = tensor(got)
    except (TypeError, ValueError, RuntimeError):
        return f"It returns a {type(got).__name__}; a {_kind(want)} is wanted."
    if got.shape != want.shape or (got.dtype == torch.bool) != (want.dtype == torch.bool):
        return f"It returns a {_kind(got)}; a {_kind(want)} is wanted."
    rtol, atol, least = (1e-3, 1e-5, 3) if want.is_floating_point() else (0, 0, 16)
    wrong = ~torch.isclose(got.double(), want.double(), rtol=rtol, atol=atol, equal_nan=True)
    if not wrong.any():
        return None
    place = tuple(wrong.nonzero()[0].tolist())
    pair = got[place].item(), want[place].item()
    digits = next(n for n in count(least) if f"{pair[0]:.{n}g}" != f"{pair[1]:.{n}g}")
    ours, theirs = (str(value) if isinstance(value, bool) else f"{value:.{digits}g}" for value in pair)
    where = f" at {list(place)}" if place else ""
    return f"It returns {ours}{where}; {theirs} is wanted."


def tensor(value: Any) -> Tensor:
    """Turn what an answer returns into a tensor."""
    if isinstance(value, np.ndarray):
        value = value.copy()  # a reversed array has negative strides, which torch refuses
    return torch.as_tensor(value, dtype=torch.float64 if isinstance(value, float) else None).detach()


def _kind(value: Tensor) -> str:
    kind = "bool" if value.dtype == torch.bool else "number"
    return f"{kind} tensor of shape {tuple(value.shape)}" if value.ndim else f"single {kind}"
