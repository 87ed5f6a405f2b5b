"""The options of pytest that belong to this repository: pytest reads no deeper before it takes its arguments."""

import signal

import pytest

signal.signal(signal.SIGINT, signal.default_int_handler)
"""A shell that starts us in the background has it ignored, and so would everything that a test starts."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--json", action="store_true", help="end with the figures of the suite as one line of JSON")
