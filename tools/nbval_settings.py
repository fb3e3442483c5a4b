"""Settings for nbval: `PYTHONPATH=tools pytest -p nbval_settings --nbval notebooks`, as in `make test`."""

import pytest
from build import stated_seconds


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest notebooks first, so that no worker is left with a long one at the end."""
    seconds = {path: stated_seconds(path) for path in {item.path for item in items}}
    items.sort(key=lambda item: (-seconds[item.path], item.path))  # stable: cells keep their order


def pytest_itemcollected(item: pytest.Item) -> None:
    """Leave stderr out of the comparison: warnings and progress bars differ between machines and versions.

    The saved notebooks hold no stderr; `tests/notebooks/test_form.py` checks that.
    """
    skipped = getattr(item.parent, "skip_compare", None)
    if skipped is not None and "stderr" not in skipped:
        item.parent.skip_compare = (*skipped, "stderr")
