"""Planted faults are noticed: those in solutions of exercises by `check`, those in the library by a notebook.

The long run over every fault of the library is `make faults`.
"""

import ast
import itertools
import signal
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import nbformat
import pytest
from faults import FAULTS, Fault, lessons, mutate, noticed
from nbformat.v4 import new_code_cell, new_notebook, new_output

from maelib.course import check

ROOT = Path(__file__).parents[2]
OPERATORS = [(ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.FloorDiv, ast.Mod), (ast.MatMult, ast.Mult)]
OPERATORS += [(ast.Pow, ast.Mult), (ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.BitAnd, ast.BitOr)]
SWAPS = {**{b: a for a, b in OPERATORS}, **dict(OPERATORS)}
EQUIVALENT = {  # a line that a change has made: why the answer is as before
    "size = patches.shape[-2]": "patches are square",
    "total = config.grid_size[-1] * config.grid_size[1]": "grids are square",
    "first = (model.cls_token + model.pos_embed[:, :1]).expand(len(x), +1, -1)": "the axis has length 1",
    "weight = F.adaptive_avg_pool2d(hole[:, None].float(), ours.shape[+2:])": "maps have four axes",
    "rate = tflops * 1000000000000.0 * share / (gflop * 1000000001.0)": "alike to nine digits",
    "return rate * 3601 * hours": "alike to three digits, as many as are compared",
    "return total + 1": "the sum has stalled, so 1 more changes nothing",
}


def changes(node: ast.AST) -> Iterator[tuple[str, object]]:
    """Ways to change a node: operator, constant (an axis, too), sign, order of arguments, off by one."""
    if type(getattr(node, "op", None)) in SWAPS:
        yield "op", SWAPS[type(node.op)]()
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        yield "ops", [SWAPS[type(node.ops[0])]()]
    if isinstance(node, ast.UnaryOp):
        yield "op", ast.UAdd()
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield "value", node.value + 1
        yield "value", node.value - 1
    if isinstance(node, ast.Call) and len(node.args) > 1:
        yield "args", [*node.args[:-2], node.args[-1], node.args[-2]]
    if isinstance(node, ast.Return):
        yield "value", ast.UnaryOp(ast.USub(), node.value)
        for operator, number in ((ast.Add(), 1), (ast.Sub(), 1), (ast.Mult(), 2)):
            yield "value", ast.BinOp(node.value, operator, ast.Constant(number))


def mutants(source: str) -> list[str]:
    tree, found = ast.parse(source), []
    for node in ast.walk(tree):
        for name, value in changes(node):
            before = getattr(node, name)
            setattr(node, name, value)
            found.append(ast.unparse(tree))
            setattr(node, name, before)
    return [text for text in dict.fromkeys(found) if text != ast.unparse(tree)]


def solutions() -> Iterator[tuple[str, str, str, str]]:
    """For each exercise: its name, the imports of its notebook, the solution, the name of the function."""
    for path in sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb")):
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        for answer, call in itertools.pairwise(cells):
            if call.startswith("check("):
                name, function = (ast.unparse(argument) for argument in ast.parse(call).body[0].value.args)
                yield ast.literal_eval(name), cells[1], answer, function


SOLUTIONS = {name: rest for name, *rest in solutions()}


def survivors(name: str, sources: list[str]) -> list[str]:
    imports, _, function = SOLUTIONS[name]
    signal.signal(signal.SIGALRM, Mock(side_effect=TimeoutError))
    passed = []
    for source in sources:
        namespace: dict[str, object] = {}
        signal.setitimer(signal.ITIMER_REAL, 2, 0.2)  # a changed loop may never end
        try:
            exec(f"{imports}\n{source}", namespace)
            if check(name, namespace[function]).passed:
                passed.append(source)
        except TimeoutError:
            continue
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    return passed


@pytest.mark.filterwarnings("ignore")  # a changed formula may divide by 0
@pytest.mark.parametrize("name", SOLUTIONS)
def test_five_small_changes_of_a_solution_are_noticed(name: str) -> None:
    every = mutants(SOLUTIONS[name][1])
    chosen = [every[len(every) * k // 5] for k in range(5)]
    assert len(set(chosen)) == 5
    before = ast.unparse(ast.parse(SOLUTIONS[name][1])).splitlines()
    for source in survivors(name, chosen):
        changed = [line.strip() for line, old in zip(source.splitlines(), before, strict=True) if line != old]
        assert EQUIVALENT.get(changed[0]), f"{name} passes with {changed}"


# -------------------------------------------------------------------------------------------- faults in the library


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_a_fault_changes_a_line_of_the_library_and_names_lessons(fault: Fault) -> None:
    source = (ROOT / "maelib" / f"{fault.module}.py").read_text()
    assert ast.dump(ast.parse(mutate(fault, source))) != ast.dump(ast.parse(source))
    assert len(lessons(fault.notebooks)) == len(fault.notebooks) > 0


def test_only_a_notebook_whose_output_a_fault_changes_notices_it(tmp_path: Path) -> None:
    fault = Fault("", "sums", "return a + b", "return a - b", ("01",))
    (tmp_path / "maelib").mkdir()
    (tmp_path / "maelib" / "__init__.py").touch()
    (tmp_path / "maelib" / "sums.py").write_text("def add(a, b):\n    return a + b\n")
    books = []
    for name, number in {"with_zero": 0, "with_two": 2}.items():
        saved = new_output("stream", name="stdout", text=f"{3 + number}\n")
        first = new_code_cell("from maelib.sums import add", execution_count=1)
        second = new_code_cell(f"print(add(3, {number}))", outputs=[saved], execution_count=2)
        books.append(tmp_path / f"{name}.ipynb")
        nbformat.write(new_notebook(cells=[first, second]), books[-1])
    assert noticed(fault, books, tmp_path) == "with_two, code cell 2"
    assert (tmp_path / "maelib" / "sums.py").read_text().endswith("return a + b\n")
