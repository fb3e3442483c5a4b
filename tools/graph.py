"""Draw the library as a house, from its real imports: `python tools/graph.py` writes docs/house.png.

The floors are those of import-linter's contract in pyproject.toml. A box is a module or a package, with its lines of
code. An arrow is an import; an import that a chain of arrows implies is left out.
"""

import ast
import io
import sys
import tokenize
import tomllib
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from random import Random

import grimp
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from maelib.files import write_atomic
from maelib.plots import COLOURS, style

ROOT = Path(__file__).absolute().parents[1]
CORE = ("patches", "masking", "model", "losses")
SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
COLUMN, FLOOR, BOX_WIDTH, BOX_HEIGHT = 2.0, 1.0, 1.5, 0.55  # in inches


def code_lines(path: Path) -> int:
    """Lines of a Python file that hold code: neither blank, nor comment, nor docstring (those of fields included)."""
    text = path.read_text(encoding="utf-8")
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SILENT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return len(lines)


def read_floors() -> list[list[str]]:
    """The modules and packages on each floor, from the lowest up; `__main__`, which only calls `cli`, is left out."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (layers,) = (contract["layers"] for contract in settings["contracts"] if contract["type"] == "layers")
    floors = [layer.split(" | ") for layer in reversed(layers)]
    return [floor for floor in floors if floor != ["__main__"]]


def files_of(module: str) -> list[Path]:
    """The Python files of a module or package."""
    folder = ROOT / "maelib" / module
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def imports_between(modules: list[str]) -> list[tuple[str, str]]:
    """Pairs of modules of which the first imports the second, except those that a chain of other imports implies."""
    graph = grimp.build_graph("maelib", cache_dir=None)
    for module in modules:
        graph.squash_module(f"maelib.{module}")
    edges = []
    for a, b in permutations(modules, 2):
        edge = {"importer": f"maelib.{a}", "imported": f"maelib.{b}"}
        if graph.direct_import_exists(**edge):
            graph.remove_import(**edge)
            if not graph.chain_exists(**edge):
                edges.append((a, b))
            graph.add_import(**edge)
    return edges


def arrange(floors: list[list[str]], edges: list[tuple[str, str]], tries: int = 40) -> dict[str, tuple[int, int]]:
    """Column and floor of each module, so that few arrows pass behind a box and the others are short.

    Each try begins at random and improves floor by floor, given the other floors, until it stays as it is.
    """
    columns = list(range(max(map(len, floors))))

    def cost(places: dict[str, tuple[int, int]]) -> float:
        total = 0.0
        for importer, imported in edges:
            (x0, y0), (x1, y1) = places[importer], places[imported]
            for x, y in places.values():
                if y1 < y < y0:
                    slope = (x1 - x0) / (y1 - y0)
                    free = (BOX_WIDTH / COLUMN + abs(slope) * BOX_HEIGHT / FLOOR) / 2
                    total += 10 * (abs(x0 + slope * (y - y0) - x) < free)
            total += abs(x1 - x0)
        return total

    def place(level: int, chosen: Sequence[int]) -> dict[str, tuple[int, int]]:
        return {module: (x, level) for module, x in zip(floors[level], chosen, strict=False)}

    def one_try(seed: int) -> dict[str, tuple[int, int]]:
        random, places = Random(seed), {}
        for level in range(len(floors)):
            places |= place(level, random.sample(columns, len(columns)))
        before = None
        while places != before:
            before = places
            for level, floor in enumerate(floors):
                choices = (places | place(level, chosen) for chosen in permutations(columns, len(floor)))
                places = min(choices, key=cost)
        return places

    return min(map(one_try, range(tries)), key=cost)


def draw_figure(floors: list[list[str]], edges: list[tuple[str, str]]) -> Figure:
    """A figure of the floors as bands, the modules as boxes and the imports as arrows."""
    columns = max(map(len, floors))
    with style():
        figure = Figure(figsize=(COLUMN * columns, FLOOR * (len(floors) + 0.5)))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(-COLUMN / 2, COLUMN * (columns - 0.5)), ylim=(-FLOOR / 2, FLOOR * len(floors)))
        axes.axis("off")
        for level in range(0, len(floors), 2):
            axes.axhspan(FLOOR * (level - 0.5), FLOOR * (level + 0.5), color="#F4F4F4", zorder=0)
        places = {module: (COLUMN * x, FLOOR * y) for module, (x, y) in arrange(floors, edges).items()}
        caption = "Arrows show imports. An import that a chain of arrows implies is left out."
        axes.text(
            COLUMN * (columns - 1) / 2, FLOOR * (len(floors) - 0.25), caption, ha="center", va="center", fontsize=11
        )
        for importer, imported in edges:
            draw_arrow(axes, places[importer], places[imported])
        for module, (x, y) in places.items():
            draw_box(axes, module, x, y)
    return figure


def draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow from the lower edge of one box to the upper edge of another."""
    (x0, y0), (x1, y1) = start, end
    lean = BOX_WIDTH * max(-0.4, min(0.4, (x1 - x0) / (4 * COLUMN)))
    axes.annotate(
        "",
        xy=(x1 - lean, y1 + BOX_HEIGHT / 2),
        xytext=(x0 + lean, y0 - BOX_HEIGHT / 2),
        arrowprops={"arrowstyle": "-|>", "color": "#444444", "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0},
        zorder=2,
    )


def draw_box(axes: Axes, module: str, x: float, y: float) -> None:
    """A box with the name and the lines of code of a module; the four core files stand out."""
    core = module in CORE
    package = (ROOT / "maelib" / module).is_dir()
    corner = (x - BOX_WIDTH / 2, y - BOX_HEIGHT / 2)
    face, edge = ("#DCEBF5", COLOURS[0]) if core else ("white", "black")
    shape = {"boxstyle": "round,pad=0,rounding_size=0.06", "facecolor": face, "edgecolor": edge, "zorder": 3}
    axes.add_patch(FancyBboxPatch(corner, BOX_WIDTH, BOX_HEIGHT, linewidth=1.8 if core else 1.0, **shape))
    name = module + ("/" if package else ".py")
    axes.text(x, y + 0.1, name, ha="center", va="center", weight="bold", fontsize=11, zorder=4)
    lines = f"{sum(map(code_lines, files_of(module))):,} lines"
    axes.text(x, y - 0.14, lines, ha="center", va="center", fontsize=9, zorder=4)


def main() -> int:
    floors = read_floors()
    modules = [module for floor in floors for module in floor]
    picture = io.BytesIO()
    draw_figure(floors, imports_between(modules)).savefig(picture, format="png", dpi=130, metadata={"Software": None})
    target = ROOT / "docs" / "house.png"
    target.parent.mkdir(exist_ok=True)
    write_atomic(target, picture.getvalue())
    lines = sum(map(code_lines, (ROOT / "maelib").rglob("*.py")))
    print(f"{target.relative_to(ROOT)}: {len(modules)} modules, {lines:,} lines of code")
    return 0


if __name__ == "__main__":
    sys.exit(main())
