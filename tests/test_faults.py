"""The faults that `make faults` plants: each can still be planted, and the planting works. The long run is make's."""

import ast
import importlib.util
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("faults", ROOT / "tools" / "faults.py")
faults = importlib.util.module_from_spec(SPEC)
sys.modules["faults"] = faults
SPEC.loader.exec_module(faults)


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.what)
def test_a_fault_fits_the_library_and_changes_what_it_does(fault: object) -> None:
    source = (ROOT / "maelib" / f"{fault.module}.py").read_text()
    assert ast.dump(ast.parse(faults.mutate(fault, source))) != ast.dump(ast.parse(source))


def test_the_faults_differ_and_name_notebooks_of_the_course() -> None:
    assert len(faults.FAULTS) == len({fault.what for fault in faults.FAULTS}) >= 10
    assert len({(fault.module, fault.line) for fault in faults.FAULTS}) == len(faults.FAULTS)
    assert all(fault.notebooks for fault in faults.FAULTS)
    assert {number for fault in faults.FAULTS for number in fault.notebooks} <= {f"{n:02}" for n in range(9)}


def test_a_line_that_is_not_there_is_no_fault() -> None:
    with pytest.raises(ValueError, match="holds `return 2` 0 times"):
        faults.mutate(faults.Fault("", "patches", "return 2", "return 3", ("01",)), "def f():\n    return 1\n")


def test_a_fault_is_noticed_by_the_notebook_whose_output_it_changes_and_by_no_other(tmp_path: Path) -> None:
    fault = faults.Fault("", "sums", "return a + b", "return a - b", ("01",))
    (tmp_path / "maelib").mkdir()
    (tmp_path / "maelib" / "__init__.py").touch()
    (tmp_path / "maelib" / "sums.py").write_text("def add(a, b):\n    return a + b\n")
    books = []
    for name, number in {"with_zero": 0, "with_two": 2}.items():
        said = nbformat.v4.new_output("stream", name="stdout", text=f"{3 + number}\n")
        cells = [
            nbformat.v4.new_code_cell("from maelib.sums import add", execution_count=1),
            nbformat.v4.new_code_cell(f"print(add(3, {number}))", outputs=[said], execution_count=2),
        ]
        books.append(tmp_path / f"{name}.ipynb")
        nbformat.write(nbformat.v4.new_notebook(cells=cells), books[-1])
    assert faults.noticed(fault, books, tmp_path) == "with_two, code cell 2"
    assert (tmp_path / "maelib" / "sums.py").read_text().endswith("return a + b\n")
