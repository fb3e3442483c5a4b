"""Marks handed-in notebooks: `maelib mark FOLDER`.

Handed-in code is other people's code. Each notebook runs in a process of its own (`maelib.course.runner`), which gets
the arguments of the cases and sends back what the answers return. This process alone knows the seed and the results
that are wanted, and it compares them; whatever a notebook prints or patches changes nothing here.
"""

import csv
import hashlib
import html
import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from tyro.conf import Positional

from maelib.course.check import Outcome, Stopped, cases, judge
from maelib.course.exercises import EXERCISES
from maelib.files import data_folder, write_atomic

CHECK = re.compile(r"""\bcheck\(\s*["'](\d\d\.\d)["']\s*,\s*(\w+)""")
TITLE = re.compile(r"^# (\d\d)\. ", re.MULTILINE)
DTYPES = {"bool": torch.bool, "int": torch.int64, "float": torch.float64}
ALONE = ["unshare", "--map-root-user", "--net", "--pid", "--fork", "--kill-child"]
UNSEEN = [*ALONE, "--mount-proc"]  # the command line, which holds the seed, cannot be read either
LARGEST = 2**26  # bytes of a notebook that is read, and of a file that it may write
REPORT = 2**23  # bytes of a report that are read


@dataclass(frozen=True)
class MarkConfig:
    """Mark a folder of handed-in notebooks, each in a process of its own.

    Writes one row for each notebook and exercise, and beside it a folder `feedback` with a page for each notebook.
    """

    folder: Positional[Path]
    """folder of notebooks; subfolders are searched too"""
    seed: str | None = None
    """a secret: answers are then tried on cases that no learner has seen, instead of those of the lessons"""
    out: Path = Path("marks.csv")
    """table to write"""
    jobs: int = 2
    """notebooks that run at once"""
    seconds: float = 120
    """limit for a notebook; each of its cells and answers gets a quarter of that"""
    memory: float = 6
    """limit for a notebook in GB, of which Python and torch take about 3"""


@dataclass(frozen=True)
class Mark:
    """What became of one exercise: passed, hint, not attempted, error, or time limit."""

    notebook: str
    exercise: str
    result: str
    text: str
    seconds: float = 0.0


def mark(config: MarkConfig) -> str:
    """Mark the notebooks of a folder, write the table and the pages, and return a summary.

    Raises
    ------
    ValueError
        When the folder holds no notebook.
    OSError
        When the system cannot limit a process, as Windows cannot.
    """
    paths = sorted(p for p in config.folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    if not paths:
        raise ValueError(f"folder {config.folder} holds no notebook; hand in files that end in .ipynb")
    if os.name != "posix":
        raise OSError("maelib mark needs the limits of Linux or macOS; on Windows, use WSL")
    prefix = next(filter(_allowed, (UNSEEN, ALONE)), [])
    if not prefix:
        warnings.warn("handed-in code has the network here: `unshare --net` is not allowed", stacklevel=2)
    with ThreadPoolExecutor(config.jobs) as pool:
        done = tqdm(pool.map(partial(_mark_one, config, prefix), paths), "marking", len(paths), unit="notebook")
        marks = [mark for marks in done for mark in marks]
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["student", "exercise", "result", "hint", "seconds"])
    for m in marks:
        name = f"'{m.notebook}" if m.notebook[0] in "=+-@" else m.notebook  # a spreadsheet would take it for a formula
        writer.writerow([name, m.exercise, m.result, m.text, f"{m.seconds:.1f}"])
    write_atomic(config.out, table.getvalue().encode(errors="replace"))
    feedback = config.out.parent / "feedback"
    for name in dict.fromkeys(m.notebook for m in marks):
        write_atomic(
            feedback / f"{name}.md", _page(name, [m for m in marks if m.notebook == name]).encode(errors="replace")
        )
    counts = Counter(m.result for m in marks)
    results = ", ".join(f"{number} {result}" for result, number in counts.most_common())
    return f"{len(paths)} notebooks: {results}; wrote {config.out} and {feedback}"


def _allowed(command: list[str]) -> bool:
    try:
        return subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _page(name: str, marks: list[Mark]) -> str:
    lines = [f"# Feedback: {name}", f"{sum(m.result == 'passed' for m in marks)} of {len(marks)} exercises passed."]
    return (
        "\n\n".join([*lines, *(f"- **{m.exercise}** {m.result}. {html.escape(m.text, False)}" for m in marks)]) + "\n"
    )


def _mark_one(config: MarkConfig, prefix: list[str], path: Path) -> list[Mark]:
    """The marks of one notebook; whatever is wrong with it becomes a mark."""
    name = str(path.relative_to(config.folder).with_suffix(""))
    try:
        code, lesson = _read(path)
        seeds = {exercise: _seed(config.seed, exercise) for exercise in EXERCISES if exercise[:2] == lesson}
        if not seeds:
            raise ValueError("it holds no exercise of the course")
        reports, end = _run(config, prefix, code, lesson, seeds)
    except Exception as error:  # a file may hold anything
        return [Mark(name, "", "error", f"This notebook cannot be marked: {_line(error)}")]
    unknown = {"late": True} if end == "late" else {"broken": end}
    return [_judge(config, name, exercise, seed, reports.get(exercise, unknown)) for exercise, seed in seeds.items()]


def _read(path: Path) -> tuple[list[str], str]:
    """The code cells of a notebook, and the number of its lesson."""
    if path.stat().st_size > LARGEST:
        raise ValueError(f"it is larger than {LARGEST >> 20} MB")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    code = [source for kind, source in sources if kind == "code"]
    checked = Counter(exercise[:2] for source in code for exercise, _ in CHECK.findall(source))
    title = TITLE.search("\n".join(source for kind, source in sources if kind == "markdown"))
    return code, checked.most_common(1)[0][0] if checked else title[1] if title else ""


def _seed(secret: str | None, exercise: str) -> int:
    """A seed of its own for each exercise, from which nobody finds the secret."""
    return int(hashlib.sha256(f"{secret} {exercise}".encode()).hexdigest()[:15], 16) if secret is not None else 0


def _functions(code: list[str], lesson: str) -> dict[str, str]:
    """The names of the functions that answer the exercises: in the repository's lesson, then in the notebook itself."""
    stubs = [_read(path)[0] for path in data_folder().parent.glob(f"notebooks/{lesson}_*.ipynb")]
    return {name: function for cells in (*stubs, code) for source in cells for name, function in CHECK.findall(source)}


def _run(
    config: MarkConfig, prefix: list[str], code: list[str], lesson: str, seeds: dict[str, int]
) -> tuple[dict[str, dict[str, Any]], str]:
    """What the runner reports of each exercise, and how it ended."""
    limits = {"RLIMIT_AS": int(config.memory * 2**30), "RLIMIT_FSIZE": LARGEST, "RLIMIT_CORE": 0}
    if prefix:  # a namespace of its own counts its own processes alone
        limits["RLIMIT_NPROC"] = 256
    drawn = pickle.dumps({exercise: cases(exercise, seed) for exercise, seed in seeds.items()})
    job = {"cells": code, "functions": _functions(code, lesson), "cases": drawn, "limits": limits}
    known = (
        "PATH",
        "HOME",
        "LANG",
        "LD_LIBRARY_PATH",
        "MAELIB_CACHE",
    )  # no password or key that the environment may hold
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, tempfile.TemporaryFile() as report:
        environment = {name: os.environ[name] for name in known if name in os.environ} | {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "IPYTHONDIR": folder, "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "agg",
        }  # fmt: skip
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "maelib.course.runner"],
            stdin=subprocess.PIPE, stdout=report, stderr=subprocess.DEVNULL, cwd=folder, env=environment,
            start_new_session=True,
        )  # fmt: skip
        try:
            process.communicate(pickle.dumps({**job, "seconds": config.seconds / 4}), config.seconds)
            end = f"the notebook ended its process (code {process.returncode})"
        except subprocess.TimeoutExpired:
            end = "late"
        finally:
            for kill in (process.kill, partial(os.killpg, process.pid, signal.SIGKILL)):
                with suppress(ProcessLookupError):
                    kill()
            process.wait()
        report.seek(0)
        return dict(_reports(report.read(REPORT))), end


def _reports(data: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of a report that can be read; the notebook may have written others."""
    for line in data.splitlines():
        try:
            item = json.loads(line)
            yield str(item["exercise"]), item
        except (ValueError, KeyError, TypeError, RecursionError):
            continue


def _judge(config: MarkConfig, name: str, exercise: str, seed: int, report: dict[str, Any]) -> Mark:
    if report.get("late"):
        limits = f"{config.seconds / 4:g} s for a cell or an answer, {config.seconds:g} s for a notebook"
        return Mark(name, exercise, "time limit", f"This did not end in time ({limits}).")
    try:
        seconds = float(report.get("seconds", 0))
        if "broken" in report:
            return Mark(name, exercise, "error", f"This cannot be run: {_line(report['broken'])}", seconds)
        outcomes = [Outcome(_decode(value), list(map(str, changed))) for value, changed in report["outcomes"]]
        verdict = judge(exercise, outcomes, seed)
    except Exception as error:  # the report is other people's, too
        return Mark(name, exercise, "error", f"The results cannot be read: {_line(error)}")
    untouched = outcomes[0].value is None
    result = "passed" if verdict.passed else "not attempted" if untouched else "hint"
    text = re.sub(r"^Exercise \S+ (not yet|passed)\. |^Exercise.*", "", verdict.text)
    return Mark(name, exercise, result, _line(text), seconds)


def _decode(item: Any) -> Any:
    """A result from plain JSON."""
    if item is None:
        return None
    kind, content = next(iter(item.items()))
    if kind == "stopped":
        return Stopped(*map(str, content))
    if kind == "other":
        return type(str(content), (), {})()
    return torch.tensor(content, dtype=DTYPES[kind]).reshape(item["shape"])


def _line(text: object) -> str:
    return " ".join(str(text).split())[:500]
