"""The tests of the wheel take minutes: only `-m wheel` runs them (`make test-wheel`)."""

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect them here, not in addopts, whose `-m` any other `-m` would replace."""
    if "wheel" in config.option.markexpr:
        return
    left = [item for item in items if item.get_closest_marker("wheel")]
    items[:] = [item for item in items if item not in left]
    config.hook.pytest_deselected(items=left)
