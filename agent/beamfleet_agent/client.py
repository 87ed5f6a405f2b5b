"""Owns asking the running agent over its Unix socket; for the command line."""

import json
import os
import socket
from collections.abc import Callable
from typing import Any

from beamfleet_agent.errors import AgentError
from beamfleet_agent.inquiry import local_address
from beamfleet_agent.paths import Paths


def ask(paths: Paths, question: dict[str, Any], on_progress: Callable[[dict[str, Any]], None]) -> dict[str, Any] | None:
    """The agent's result, None if no agent runs. Raises its errors, and `agent.gone` if it ends before it answers."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with connection:
        try:
            address, descriptor = local_address(paths.agent_sock)
            try:
                connection.connect(address)
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except PermissionError as error:
            hint = "ask as root or as the agent's user"
            raise AgentError("agent.forbidden", "this user may not talk to the agent", hint) from error
        connection.sendall(json.dumps(question).encode() + b"\n")
        with connection.makefile("rb") as lines:
            for line in lines:
                said = json.loads(line)
                if "progress" in said:
                    on_progress(said["progress"])
                elif "error" in said:
                    refusal = said["error"]
                    raise AgentError(refusal["code"], refusal["message"], refusal["hint"])
                else:
                    result: dict[str, Any] = said["result"]
                    return result
    hint = "its update goes on when it comes back; look at `beamfleet-agent status`"
    raise AgentError("agent.gone", "the agent ended before it answered", hint)
