"""Owns how the words of a command line are taken: what the framework refuses is told as every other error is.

Which format a refusal has is read from the words themselves, for no command has begun then. Whether a file can be read
is not asked here: whoever reads it says so. This module never prints.
"""

from collections.abc import Sequence
from typing import Any

from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.output import Format

_FLAGS = ("--output", "-o")


def asked_format(words: Sequence[str]) -> Format:
    """The format that the words ask for; a table where they ask for none."""
    found = Format.TABLE
    for number, word in enumerate(words):
        if word == "--":
            break
        if word in _FLAGS:
            value = "".join(words[number + 1 : number + 2])
        elif word.startswith("--"):
            value = word.removeprefix("--output=")
        else:
            value = word[2:] if word.startswith("-o") else ""
        found = next((each for each in Format if each.value == value.lower()), found)
    return found


def leave_reading(command: Any) -> None:
    """Let no command of the framework judge whether a file can be read."""
    for each in command.params:
        info = getattr(getattr(each, "type_descriptor", None), "parameter_info", None)
        if info is not None:
            info.readable = False
    for inner in getattr(command, "commands", {}).values():
        leave_reading(inner)


def is_help(error: Exception) -> bool:
    """Whether it is the help that the framework shows where a group's name stands alone."""
    return type(error).__name__ == "NoArgsIsHelpError"


def refusal(error: Exception) -> CommandError | None:
    """What the framework refused, as `usage.arguments`; None for what is no refusal of its own."""
    context = getattr(error, "ctx", None)
    if not hasattr(error, "format_message"):
        return None
    message = " ".join(error.format_message().split()).rstrip(".").replace(": Value error, ", ": ")
    path = getattr(context, "command_path", "") or "beamfleet"
    return CommandError("usage.arguments", message[:1].lower() + message[1:], f"see: {path} --help")
