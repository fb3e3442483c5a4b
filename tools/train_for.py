"""Train for about so many minutes: `python tools/train_for.py MINUTES OPTIONS`, with the options of `maelib train`.

A run has a number of steps, so that it can be repeated. Two short runs measure how many steps the machine takes in the
time that is left, and `maelib train` is then told that number. `minutes.json` in the folder of the run says what it
took, and for how much of that time the model waited for images.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from maelib import cli
from maelib.training import train as training

SHORT, LONG = 5, 30  # steps of the runs that measure the rate


def waiting(items: Iterable, waited: list[float]) -> Iterator:
    """The same items; notes the seconds for which each kept its reader waiting."""
    iterator = iter(items)
    while True:
        began = time.perf_counter()
        try:
            item = next(iterator)
        except StopIteration:
            return
        waited.append(time.perf_counter() - began)
        yield item


def train(options: list[str], steps: int, *more: object) -> float:
    """Seconds that a run of `steps` steps takes."""
    began = time.perf_counter()
    cli.main(["train", *options, "--steps", str(steps), *map(str, more)])
    return time.perf_counter() - began


def main(minutes: float, options: list[str]) -> None:
    """Measure, train, and write `minutes.json`."""
    began, waited = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        times = {}
        for steps in (2, SHORT, LONG):  # the first draws the facades and compiles
            times[steps] = train(options, steps, "--out", f"{folder}/{steps}", "--eval-every", steps)
    rate = (LONG - SHORT) / max(times[LONG] - times[SHORT], 1e-6)
    print(f"{rate:.3g} steps a second", flush=True)
    left = 60 * minutes - (time.perf_counter() - began) - max(0.0, times[SHORT] - SHORT / rate)
    steps = max(1, int(0.95 * left * rate))
    for name in ("ahead", "prefetch"):
        function = getattr(training, name)
        setattr(training, name, lambda *args, f=function, **named: waiting(f(*args, **named), waited))
    seconds = train(options, steps, "--eval-every", max(1, steps // max(1, round(left / 60))))  # saves every minute
    out = Path(options[options.index("--out") + 1])
    facts = {"steps": steps, "minutes": seconds / 60, "waited": sum(waited) / seconds}
    (out / "minutes.json").write_text(json.dumps(facts) + "\n", encoding="utf-8")
    print(f"{steps} steps in {seconds / 60:.2f} minutes; waited for images {sum(waited) / seconds:.1%} of the time")


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2:])
