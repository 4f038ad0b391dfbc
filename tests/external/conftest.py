"""Programs that are not ours: how tests find them, and what happens where one is not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.external.chromium import Browser, chromium, chromium_path

HERE = Path(__file__).parent


def missing(what: str, how: str) -> None:
    """Where the tests are run by hand a program may be absent; in CI its absence is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is not there: {how}")
    pytest.skip(f"{what} is not there: {how}")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = chromium_path()
    if program is None and os.geteuid() != 0:
        pytest.skip("Chromium is not there, and only root may install it: name it in $CHROMIUM")
    if program is None:
        missing("Chromium", "make test-external installs it from the distribution")
    assert program is not None
    with chromium(program) as running:
        yield running
