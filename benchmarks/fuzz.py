"""Ten minutes of broken and hostile files for every reader of the library: `make fuzz`.

Each reader meets hypothesis, which draws files that are well-formed and lie, and atheris, which mutates bytes and
follows what new code they reach. A fault is any error but the promised one, one that does not name the file, code
that a file gets to run, a file written, a hang, or too much memory. What causes one is kept in `tests/corpus`, where
`make test` replays it.
"""

import faulthandler
import hashlib
import importlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ENGINES = ("hypothesis", "atheris")
INSTRUMENTED = ["maelib", "PIL"]
HANG = 20  # seconds for one file
MEMORY = 3000  # megabytes for one file: a photo of 150 megapixels takes most of it
LONGEST = 65536  # bytes of a file that atheris makes
# Audit events of running code, or of touching anything but the file: docs.python.org/3/library/audit_events.html
FORBIDDEN = re.compile(
    r"pickle\.find_class|exec|os\.(system|exec|fork|forkpty|posix_spawn|spawn|startfile|remove|rename|rmdir|mkdir|link|"
    r"symlink|truncate|chmod|putenv)|subprocess\.Popen|shutil\..*|socket\.(connect|getaddrinfo|bind)"
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

_watching, _events = False, []


def _importing() -> bool:
    """Whether Python loads a module just now, which runs code of the library's own."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _hook(event: str, args: tuple) -> None:
    if not _watching:
        return
    writes = event == "open" and isinstance(args[2], int) and args[2] & WRITING
    if (writes or FORBIDDEN.fullmatch(event)) and (event == "pickle.find_class" or not _importing()):
        _events.append(event)


sys.addaudithook(_hook)


class Hang(BaseException):
    """A reader takes too long; no `except Exception` swallows it."""


@contextmanager
def _time_limit(seconds: int | None) -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise Hang

    if seconds is None:
        yield
        return
    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def peak() -> float:
    """Most memory that this process has held so far, in megabytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def _place(error: BaseException) -> str:
    """Function of the library, or failing that of anything, that an error left last."""
    frames, frame = [], error.__traceback__
    while frame is not None:
        code = frame.tb_frame.f_code
        if code.co_filename != __file__:
            frames.append((Path(code.co_filename), code.co_name))
        frame = frame.tb_next
    ours = [f"{path.stem}.{name}" for path, name in frames if path.parent.name == "maelib"]
    return (ours or [f"{path.stem}.{name}" for path, name in frames])[-1]


def fault(target: Any, data: bytes, folder: Path, seconds: int | None = HANG, memory: int = MEMORY) -> str | None:
    """What is wrong with how the reader of a `Target` took a file of these bytes; None when it kept its promise.

    The file is written into `folder`; `seconds` None leaves hangs to the caller; `memory` is in megabytes.
    """
    global _watching
    path, error, before = folder / target.file, None, peak()
    path.unlink(missing_ok=True)  # a reader may still have the one before mapped into memory
    path.write_bytes(data)
    for name, content in target.beside.items():
        if not (folder / name).exists():
            (folder / name).write_bytes(content)
    _events.clear()
    try:
        with _time_limit(seconds), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _watching = True
            target.read(path)
    except KeyboardInterrupt:
        raise
    except BaseException as caught:  # panics of Rust are none of Exception's
        error = caught
    finally:
        _watching = False
    if _events:
        return f"caused {_events[0]}"
    if isinstance(error, Hang):
        return f"took more than {seconds} s in {_place(error)}"
    if error is not None and not isinstance(error, target.promised):
        return f"raised {type(error).__name__} in {_place(error)}"
    if error is not None and path.name not in str(error):
        return f"raised {type(error).__name__} in {_place(error)} without the file's name"
    return f"took more than {memory} MB" if peak() - before > memory else None


# ------------------------------------------------------------------------------------- one reader and engine, a process


@dataclass
class Meeting:
    """A reader's inputs so far, and the smallest of each kind that was a fault."""

    target: Any
    folder: Path
    faults: dict[str, bytes]
    inputs: int = 0

    def feed(self, data: bytes, seconds: int | None = HANG) -> str | None:
        """The fault; the smallest input of each kind is kept."""
        self.inputs += 1
        wrong = fault(self.target, data, self.folder, seconds)
        if wrong and len(data) <= len(self.faults.get(wrong, data)):
            self.faults[wrong] = data
            self.save()
        return wrong

    def save(self) -> None:
        told = {"inputs": self.inputs, "faults": {wrong: data.hex() for wrong, data in self.faults.items()}}
        (self.folder / "told.json").write_text(json.dumps(told))


def _draw(meeting: Meeting, seconds: float) -> None:
    """Hypothesis: rounds of a hundred inputs, each new fault shrunk."""
    from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

    end = time.monotonic() + seconds
    for data in meeting.target.seeds:
        meeting.feed(data)
    for number in range(sys.maxsize):
        if time.monotonic() > end:
            break
        failed: list[str] = []

        @seed(number)
        @settings(
            max_examples=100, database=None, deadline=None, phases=(Phase.generate, Phase.shrink),
            verbosity=Verbosity.quiet, suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
        )  # fmt: skip
        @given(meeting.target.inputs)
        def meet(known: set[str], failed: list[str], data: bytes) -> None:
            if time.monotonic() < end + (HANG if failed else 0):
                wrong = meeting.feed(data)
                if wrong and wrong not in known:
                    failed.append(wrong)
                    raise AssertionError(wrong)

        try:
            meet(set(meeting.faults), failed)
        except Exception:  # the fault, or hypothesis that shrinking ran out of time
            if not failed:
                raise
        meeting.save()


def _mutate(meeting: Meeting, seconds: float) -> None:
    """Atheris: libFuzzer ends the process when the time is over, at a hang, or when native code dies."""
    import atheris

    corpus = meeting.folder / "corpus"
    corpus.mkdir()
    for i, data in enumerate(meeting.target.seeds):
        (corpus / str(i)).write_bytes(data)
    flags = {
        "max_total_time": max(1, round(seconds)), "timeout": HANG, "rss_limit_mb": 2 * MEMORY, "max_len": LONGEST,
        "print_final_stats": 1, "artifact_prefix": f"{meeting.folder}/",
    }  # fmt: skip
    words = [sys.argv[0], *(f"-{name}={value}" for name, value in flags.items()), str(corpus)]
    atheris.Setup(words, lambda data: meeting.feed(data, None) and None)  # a number would tell it to forget the input
    atheris.Fuzz()


def _meet(target: Any, engine: str, seconds: float, folder: Path) -> None:
    """The whole life of a reader's process; what it says goes into the folder's log."""
    with (folder / "log").open("w") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    faulthandler.enable()
    meeting = Meeting(target, folder, {})
    meeting.save()
    {"hypothesis": _draw, "atheris": _mutate}[engine](meeting, seconds)


def _feed(target: Any, engine: str, seconds: float) -> tuple[int, dict[str, bytes]]:
    """Inputs that a reader took, and its faults. Native crashes and hangs end its process, and it is started anew."""
    end, inputs, faults = time.monotonic() + seconds, 0, {}
    for _ in range(5):
        with tempfile.TemporaryDirectory() as hall:
            folder, left = Path(hall), max(2, end - time.monotonic())
            process = get_context("fork").Process(target=_meet, args=(target, engine, left, folder))
            process.start()
            process.join(left + 5 * HANG)
            code = process.exitcode
            if code is None:
                process.kill()
                process.join()
            log, told = (folder / "log").read_text(errors="replace"), json.loads((folder / "told.json").read_text())
            executed = re.search(r"stat::number_of_executed_units:\s*(\d+)", log)
            inputs += int(executed[1]) if executed else told["inputs"]
            faults |= {wrong: bytes.fromhex(data) for wrong, data in told["faults"].items()}
            artifacts = [path for path in folder.iterdir() if path.name.startswith(("crash-", "timeout-", "oom-"))]
            if code == 0:
                break
            if code == 1 and not artifacts:
                raise RuntimeError(f"{engine} broke off:\n{log[:2000]}\n...\n{log[-2000:]}")
            print(log[-3000:], file=sys.stderr)
            kind = artifacts[0].name.split("-")[0] if artifacts else f"exit code {code}"
            faults[f"ended the process ({kind})"] = (artifacts[0] if artifacts else folder / target.file).read_bytes()
        if time.monotonic() > end:
            break
    return inputs, faults


def _feed_all(module: str, engine: str, seconds: float, out: Path) -> None:
    """One engine, all readers: imported once, then each in a process of its own for its share of the time."""
    end = time.monotonic() + seconds
    if engine == "atheris":
        import atheris

        with atheris.instrument_imports(include=INSTRUMENTED):
            targets = importlib.import_module(module).TARGETS
            with tempfile.TemporaryDirectory() as folder:
                for target in targets.values():  # what readers import only when they read
                    fault(target, target.seeds[0], Path(folder))
        from torch._weights_only_unpickler import Unpickler  # all of torch would take minutes to instrument

        Unpickler.load = atheris.instrument_func(Unpickler.load)
    else:
        targets = importlib.import_module(module).TARGETS
    rows = {}
    for i, (name, target) in enumerate(targets.items()):
        start = time.monotonic()
        inputs, faults = _feed(target, engine, (end - start) / (len(targets) - i))
        rows[name] = {
            "promised": ", ".join(error.__name__ for error in target.promised),
            "inputs": inputs,
            "faults": {wrong: data.hex() for wrong, data in faults.items()},
            "seconds": time.monotonic() - start,
        }
        print(f"{engine}, {name}: {inputs} inputs, {len(faults)} faults {list(faults)}", flush=True)
    out.write_text(json.dumps(rows))


# --------------------------------------------------------------------------------------------------------- the report

Rows = dict[str, dict[str, dict[str, Any]]]  # by engine and reader


def fuzz(module: str, seconds: float, corpus: Path) -> Rows:
    """Feed every reader of the `module`'s table for its share of the `seconds`; keep faults in the `corpus`."""
    end, rows = time.monotonic() + seconds, {}
    engines = [engine for engine in ENGINES if find_spec(engine)]
    for i, engine in enumerate(engines):
        with tempfile.TemporaryDirectory() as hall:
            left = (end - time.monotonic()) / (len(engines) - i)
            command = [sys.executable, __file__, "feed", module, engine, str(left), str(Path(hall, "rows.json"))]
            subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"})
            rows[engine] = json.loads(Path(hall, "rows.json").read_text())
        for name, row in rows[engine].items():
            for data in map(bytes.fromhex, row["faults"].values()):
                (corpus / name).mkdir(parents=True, exist_ok=True)
                (corpus / name / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)
    return rows


def report(rows: Rows, seconds: float) -> str:
    """What was fed to whom, and what came of it, as Markdown."""
    from common import machine

    missing = [engine for engine in ENGINES if engine not in rows]
    lines = [
        "# Broken and hostile files",
        "",
        f"`make fuzz`, {seconds:.0f} s in all, on {machine()}.",
        *([f"Without {missing[0]}, which is not installed here."] if missing else []),
        "[fuzz.py](../fuzz.py) says what a fault is; `tests/corpus` keeps those that were mended.",
        "",
        "| reader | errors promised | inputs by hypothesis | inputs by atheris | faults | seconds |",
        "|---|---|---|---|---|---|",
    ]
    faults: list[str] = []
    for name in rows["hypothesis"]:
        met = {engine: rows[engine][name] for engine in rows}
        found = sorted({wrong for row in met.values() for wrong in row["faults"]})
        counts = " | ".join(f"{met[engine]['inputs']:,}" if engine in met else "none" for engine in ENGINES)
        spent = sum(row["seconds"] for row in met.values())
        lines.append(f"| {name} | {met['hypothesis']['promised']} | {counts} | {len(found)} | {spent:.0f} |")
        faults += [f"- {name}: {wrong}" for wrong in found]
    total = " | ".join(f"{sum(row['inputs'] for row in rows.get(engine, {}).values()):,}" for engine in ENGINES)
    spent = sum(row["seconds"] for engine in rows.values() for row in engine.values())
    lines.append(f"| all | | {total} | {len(faults)} | {spent:.0f} |")
    return "\n".join([*lines, "", *faults]).rstrip() + "\n"


@dataclass(frozen=True)
class FuzzConfig:
    """Feed broken and hostile files to every reader of the library."""

    seconds: float = 600
    """for all readers together"""
    out: Path = ROOT / "benchmarks" / "results" / "fuzz.md"
    """report"""
    corpus: Path = ROOT / "tests" / "corpus"
    """folder for the inputs that were faults"""
    targets: str = "fuzz_targets"
    """module whose TARGETS are the readers"""


def main(config: FuzzConfig) -> int:
    """Fuzz, write the report; 1 when a reader broke its promise."""
    start = time.monotonic()
    rows = fuzz(config.targets, config.seconds, config.corpus)
    config.out.write_text(report(rows, time.monotonic() - start), encoding="utf-8")
    faults = sum(len(row["faults"]) for engine in rows.values() for row in engine.values())
    print(f"{config.out.name}: {faults} faults" + (f", kept in {config.corpus}" if faults else ""))
    return int(faults > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["feed"]:
        _feed_all(*sys.argv[2:4], float(sys.argv[4]), Path(sys.argv[5]))
    else:
        import tyro

        sys.exit(main(tyro.cli(FuzzConfig)))
