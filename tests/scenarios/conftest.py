"""`pytest tests/scenarios --rewrite` writes down what the worker does now."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="rewrite the expected halves of tests/scenarios/*.txt")
