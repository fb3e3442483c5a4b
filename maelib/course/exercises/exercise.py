"""What an exercise consists of: cases to try, a solution, and foreseen mistakes with a hint for each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator


@dataclass(frozen=True)
class Exercise:
    """An exercise: `cases` draws the arguments of each trial, `mistakes` pairs wrong solutions with hints.

    An answer is tried on every case and compared with `solution`. When it is wrong, the hint is that of the first
    mistake with the same outcome on all cases. `praise` says what the right answer has shown. Cases can be pickled,
    so that they can be sent to another process.
    """

    cases: Callable[[Generator], list[tuple]]
    solution: Callable[..., Any]
    praise: str
    mistakes: tuple[tuple[Callable[..., Any], str], ...]


def pairs(*items: Any) -> tuple[tuple[Callable[..., Any], str], ...]:
    """Pair each wrong solution with the hint that follows it."""
    return tuple(zip(items[::2], items[1::2], strict=True))


def whole(generator: Generator, low: int, high: int) -> int:
    """Draw a whole number from `low` to `high`, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def real(generator: Generator, low: float, high: float) -> float:
    """Draw a number from `low` to `high`."""
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()
