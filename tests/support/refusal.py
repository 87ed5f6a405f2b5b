"""Asking for the code of an error as a value, for tests that go through many inputs."""

from collections.abc import Callable
from typing import Any

from beamfleet_bundles.errors import BeamfleetError


def refusal(function: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """The code of the BeamfleetError that the call raises; empty when it raises none."""
    try:
        function(*arguments, **options)
    except BeamfleetError as error:
        return error.code
    return ""
