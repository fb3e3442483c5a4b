"""nbval's settings for `pytest --nbval notebooks`."""

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    """Leave stderr out of the comparison: warnings and progress bars differ between machines and versions.

    The committed notebooks hold none; `tests/test_notebooks.py` sees to that.
    """
    skipped = getattr(item.parent, "skip_compare", None)
    if skipped is not None and "stderr" not in skipped:
        item.parent.skip_compare = (*skipped, "stderr")
