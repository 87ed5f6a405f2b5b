"""The options of pytest that belong to this repository: pytest reads no deeper before it takes its arguments."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--json", action="store_true", help="end with the figures of the suite as one line of JSON")
