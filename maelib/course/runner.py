"""Runs one handed-in notebook in a process that `maelib.course.mark` starts, and reports what its answers return.

The job arrives on stdin. One line of JSON leaves on stdout for each exercise: outcomes alone, never a verdict. The code
of the notebook may do as it likes in here, since nothing that this process says is taken for more than an outcome.
"""

import json
import os
import pickle
import re
import resource
import signal
import symtable
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from IPython.core.inputtransformer2 import TransformerManager
from IPython.core.interactiveshell import InteractiveShell

from maelib import course
from maelib.course.check import Stopped, attempt, tensor

LARGEST = 20_000  # values of one result


class TimeLimitError(BaseException):
    """A cell or an answer took too long; no `except Exception` of a notebook catches it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeLimitError

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # again each second, should the notebook catch it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def names_of(source: str) -> tuple[set[str], set[str], set[str]]:
    """The global names that a cell sets, those that it reads at once, and those that its functions read when called."""
    try:
        top = symtable.symtable(TransformerManager().transform_cell(source), "cell", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set(), set(), set()
    later, tables = set(), [*top.get_children()]
    for table in tables:
        tables += table.get_children()
        later |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and s.is_global()}
    sets = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    return sets, {s.get_name() for s in top.get_symbols() if s.is_referenced()}, later


def needed(cells: list[str], functions: set[str]) -> list[str]:
    """The cells on which answers depend: those that check, those that set what these read by then, and so on."""
    known = [names_of(source) for source in cells]
    chosen = {i for i, (sets, now, _) in enumerate(known) if "check" in now - sets}
    asked = {(name, i) for i in chosen for name in known[i][1] | known[i][2]}
    queue = [*asked, *((name, len(cells)) for name in functions)]
    for name, before in queue:
        setters = [i for i, (sets, _, _) in enumerate(known) if name in sets]
        for i in [j for j in setters if j < before][-1:] or setters[:1]:
            chosen.add(i)
            more = {*((other, i) for other in known[i][1]), *((other, before) for other in known[i][2])} - asked
            asked |= more
            queue += more
    return [cells[i] for i in sorted(chosen)]


def encode(value: Any) -> Any:
    """A result as plain JSON: numbers with their shape, an exception, None, or else the name of its type."""
    if value is None:
        return None
    if isinstance(value, Stopped):
        return {"stopped": [value.kind, value.message[:1000], value.line[:200]]}
    try:
        numbers = tensor(value)
        if numbers.numel() <= LARGEST and not numbers.is_complex():
            kind = "bool" if numbers.dtype == torch.bool else "float" if numbers.is_floating_point() else "int"
            return {kind: numbers.flatten().tolist(), "shape": list(numbers.shape)}
    except Exception:  # a class of the notebook's own may raise anything
        pass
    return {"other": type(value).__name__[:100]}


def run(shell: InteractiveShell, source: str, seconds: float) -> BaseException | None:
    """Run a cell, and return what it raises."""
    try:
        with time_limit(seconds):
            result = shell.run_cell(source, silent=True)
            return result.error_before_exec or result.error_in_exec
    except BaseException as error:
        return error


def try_answer(
    name: str, answer: Any, given: list[tuple], kept: list[tuple], failed: list[BaseException], seconds: float
) -> dict[str, Any]:
    """The report on an answer; one that is missing is explained by the cells that `failed`."""
    line: dict[str, Any] = {"exercise": name}
    started = time.perf_counter()
    try:
        if answer is None and failed:
            raise failed[0]
        with time_limit(seconds):
            outcomes = attempt(answer, given, kept)
        line["outcomes"] = [[encode(outcome.value), list(outcome.changed)] for outcome in outcomes]
    except TimeLimitError:
        line["late"] = True
    except BaseException as error:
        line["broken"] = f"{type(error).__name__}: {error}"[:1000]
    return {**line, "seconds": time.perf_counter() - started}


def main() -> None:
    job = pickle.load(sys.stdin.buffer)  # written by the marker, before any code of the notebook has run
    report = os.fdopen(os.dup(1), "w")
    for descriptor in range(3):
        os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    for kind, limit in job["limits"].items():
        with suppress(ValueError, OSError):  # macOS does not limit memory in this way
            resource.setrlimit(getattr(resource, kind), (limit, limit))
    handed: dict[str, Any] = {}
    course.check = sys.modules["maelib.course.check"].check = lambda name, answer, seed=0: handed.update({name: answer})
    shell = InteractiveShell.instance()
    for cells in (needed(job["cells"], set(job["functions"].values())), job["cells"]):
        errors = [(source, error) for source in cells if (error := run(shell, source, job["seconds"]))]
        lacking = any(isinstance(error, NameError) for _, error in errors)
        drawn, kept = pickle.loads(job["cases"]), pickle.loads(job["cases"])
        for name in drawn:
            function = job["functions"].get(name, name)
            answer = handed.get(name, shell.user_ns.get(function))
            failed = [error for source, error in errors if re.search(rf"\b{function}\b|{re.escape(name)}", source)]
            line = json.dumps(try_answer(name, answer, drawn[name], kept[name], failed, job["seconds"]))
            lacking = lacking or answer is None or "NameError" in line
            print(line, file=report, flush=True)
        if not lacking:
            break  # otherwise something is set where no reading of the source shows it: run every cell


if __name__ == "__main__":
    main()
