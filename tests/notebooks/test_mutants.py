"""Small changes to the solutions of the exercises: `check` notices every one that changes what is returned."""

import ast
import itertools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest

from maelib.course import check

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


def changes(node: ast.AST) -> Iterator[Callable[[ast.AST], None]]:
    """Ways to change a node: operator, constant (an axis, too), sign, order of arguments, off by one."""
    if type(getattr(node, "op", None)) in SWAPS:
        yield lambda node: setattr(node, "op", SWAPS[type(node.op)]())
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        yield lambda node: setattr(node, "ops", [SWAPS[type(node.ops[0])]()])
    if isinstance(node, ast.UnaryOp):
        yield lambda node: setattr(node, "op", ast.UAdd())
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield lambda node: setattr(node, "value", node.value + 1)
        yield lambda node: setattr(node, "value", node.value - 1)
    if isinstance(node, ast.Call) and len(node.args) > 1:
        yield lambda node: node.args.append(node.args.pop(-2))
    if isinstance(node, ast.Return):
        yield lambda node: setattr(node, "value", ast.UnaryOp(ast.USub(), node.value))
        for operator, number in ((ast.Add(), 1), (ast.Sub(), 1), (ast.Mult(), 2)):
            yield lambda node, op=operator, by=number: setattr(
                node, "value", ast.BinOp(node.value, op, ast.Constant(by))
            )


def mutants(source: str) -> list[str]:
    found = []
    for place, node in enumerate(ast.walk(ast.parse(source))):
        for change in changes(node):
            tree = ast.parse(source)
            change(list(ast.walk(tree))[place])
            found.append(ast.unparse(ast.fix_missing_locations(tree)))
    return [text for text in dict.fromkeys(found) if text != ast.unparse(ast.parse(source))]


def solutions() -> Iterator[tuple[str, str, str, str]]:
    """For each exercise: its name, the imports of its notebook, the solution, the name of the function."""
    for path in sorted((Path(__file__).parents[2] / "notebooks" / "solutions").glob("*.ipynb")):
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        for answer, call in itertools.pairwise(cells):
            if call.startswith("check("):
                name, function = (ast.unparse(argument) for argument in ast.parse(call).body[0].value.args)
                yield ast.literal_eval(name), cells[1], answer, function


SOLUTIONS = {name: rest for name, *rest in solutions()}


def survivors(name: str, sources: list[str]) -> list[str]:
    imports, _, function = SOLUTIONS[name]

    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    passed = []
    for source in sources:
        namespace: dict[str, object] = {}
        signal.setitimer(signal.ITIMER_REAL, 2, 0.2)  # a changed loop may never end
        try:
            exec(f"{imports}\n{source}", namespace)
            if check(name, namespace[function]).passed:
                passed.append(source)
        except TimeoutError:
            pass
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
