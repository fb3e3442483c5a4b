"""The faults that `make faults` plants: each fits the library, and planting one works. The long run is make's."""

import ast
from pathlib import Path

import nbformat
import pytest
from faults import FAULTS, Fault, lessons, mutate, noticed

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_a_fault_changes_a_line_of_the_library_and_names_lessons(fault: Fault) -> None:
    source = (ROOT / "maelib" / f"{fault.module}.py").read_text()
    assert ast.dump(ast.parse(mutate(fault, source))) != ast.dump(ast.parse(source))
    assert len(lessons(fault.notebooks)) == len(fault.notebooks) > 0


def test_a_line_that_the_module_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="has the line `return 2` 0 times"):
        mutate(Fault("", "patches", "return 2", "return 3", ("01",)), "def f():\n    return 1\n")


def test_only_a_notebook_whose_output_a_fault_changes_notices_it(tmp_path: Path) -> None:
    fault = Fault("", "sums", "return a + b", "return a - b", ("01",))
    (tmp_path / "maelib").mkdir()
    (tmp_path / "maelib" / "__init__.py").touch()
    (tmp_path / "maelib" / "sums.py").write_text("def add(a, b):\n    return a + b\n")
    books = []
    for name, number in {"with_zero": 0, "with_two": 2}.items():
        saved = nbformat.v4.new_output("stream", name="stdout", text=f"{3 + number}\n")
        cells = [
            nbformat.v4.new_code_cell("from maelib.sums import add", execution_count=1),
            nbformat.v4.new_code_cell(f"print(add(3, {number}))", outputs=[saved], execution_count=2),
        ]
        books.append(tmp_path / f"{name}.ipynb")
        nbformat.write(nbformat.v4.new_notebook(cells=cells), books[-1])
    assert noticed(fault, books, tmp_path) == "with_two, code cell 2"
    assert (tmp_path / "maelib" / "sums.py").read_text().endswith("return a + b\n")
