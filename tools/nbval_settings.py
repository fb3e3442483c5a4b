"""Settings for nbval: `PYTHONPATH=tools pytest -p nbval_settings --nbval notebooks`, as `make test` does."""

import pytest
from build import stated_seconds


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run long notebooks first, so that no worker is left alone with one at the end."""
    seconds = {path: stated_seconds(path) for path in {item.path for item in items}}
    items.sort(key=lambda item: (-seconds[item.path], item.path))  # stable: cells stay in their order


def pytest_itemcollected(item: pytest.Item) -> None:
    """Leave stderr out of the comparison: warnings and progress bars differ between machines and versions.

    The committed notebooks hold none; `tests/test_notebooks.py` sees to that.
    """
    skipped = getattr(item.parent, "skip_compare", None)
    if skipped is not None and "stderr" not in skipped:
        item.parent.skip_compare = (*skipped, "stderr")
