"""Settings for nbval: `PYTHONPATH=tools pytest -p nbval_settings --nbval notebooks`, as in `make test`."""

import pytest
from build import costs, lessons


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest notebooks first, so that no worker is left with a long one at the end."""
    seconds = {path: costs()[path.stem]["seconds"] for path in lessons() if path.stem in costs()}
    items.sort(key=lambda item: (-seconds.get(item.path, 0), item.path))  # stable: cells keep their order


def pytest_itemcollected(item: pytest.Item) -> None:
    """Leave stderr and pictures out of the comparison, for both differ between machines and versions.

    The saved notebooks hold no stderr, and no HTML but pictures; `tests/notebooks/test_form.py` checks that. The
    caption of a picture is its plain text, which is compared.
    """
    skipped = getattr(item.parent, "skip_compare", None)
    if skipped is not None and "stderr" not in skipped:
        item.parent.skip_compare = (*skipped, "stderr", "text/html")
