"""Owns the agent's Unix socket for `beamfleet-agent` on the same machine: JSON lines, one question a connection.

    -> {"do": "status" | "install" | "rollback" | "commit" | "stop" | "start" | "enrol", "path": ..., "force": ...}
    <- {"progress": STATUS} ... then {"result": STATUS} or {"error": {"code", "message", "hint"}}

Only root and the agent's own user may connect. Asks the agent; decides nothing.
"""

import json
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

from beamfleet_agent.agent import Agent
from beamfleet_agent.errors import AgentError
from beamfleet_agent.inquiry import local_address
from beamfleet_agent.log import Log
from beamfleet_agent.loop import READ, Loop
from beamfleet_agent.paths import Paths

MAX_QUESTION = 8_192
MAX_CONNECTIONS = 8
_CREDENTIALS = struct.Struct("3i")

Done = Callable[[], bool]


class Control:
    """Answers on `agent.sock` until `close`."""

    def __init__(self, loop: Loop, log: Log, paths: Paths, agent: Agent) -> None:
        self._loop, self._log, self._path, self._agent = loop, log, paths.agent_sock, agent
        self._waiting: dict[socket.socket, Done] = {}
        self._questions: dict[socket.socket, bytes] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass
        address, descriptor = local_address(self._path)
        self._listener.bind(address)
        if descriptor >= 0:
            os.close(descriptor)
        os.chmod(self._path, 0o600)
        self._listener.listen(MAX_CONNECTIONS)
        loop.watch(self._listener.fileno(), READ, self._accept)
        agent.on_change = self._changed

    def close(self) -> None:
        """Hang up."""
        for connection in [*self._questions]:
            self._hang_up(connection)
        self._loop.unwatch(self._listener.fileno())
        self._listener.close()
        try:
            os.unlink(self._path)
        except OSError:
            pass

    def _accept(self, _events: int) -> None:
        connection, _ = self._listener.accept()
        connection.setblocking(False)
        _, user, _ = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        if user not in (0, os.geteuid()) or len(self._questions) >= MAX_CONNECTIONS:
            connection.close()
            return
        self._questions[connection] = b""
        self._loop.watch(connection.fileno(), READ, lambda _: self._read(connection))

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(MAX_QUESTION)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        question = self._questions[connection] = self._questions[connection] + data
        if not data or len(question) > MAX_QUESTION:
            self._hang_up(connection)
        elif question.endswith(b"\n") and connection not in self._waiting:
            self._answer(connection, question)

    def _answer(self, connection: socket.socket, question: bytes) -> None:
        try:
            said = json.loads(question)
            done = self._do(str(said["do"]), str(said.get("path", "")), said.get("force") is True)
        except AgentError as error:
            self._log.info("control", code=error.code, detail=error.message)
            self._finish(connection, {"error": {"code": error.code, "message": error.message, "hint": error.hint}})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            told = {"code": "agent.question", "message": "the question is not understood", "hint": ""}
            self._finish(connection, {"error": told})
        else:
            self._waiting[connection] = done
            self._changed(self._agent.status())

    def _do(self, verb: str, path: str, forced: bool) -> Done:
        """Ask the agent; when is it done?"""
        agent = self._agent
        self._log.info("control", verb=verb, path=path)
        match verb:
            case "status":
                return lambda: True
            case "install":
                agent.install(path)
            case "rollback":
                agent.rollback(forced)
            case "commit":
                agent.commit()
            case "stop" | "start":
                number = agent.ask(verb)
                return lambda: agent.boot_state.last_request >= number
            case "enrol":
                agent.enrol()
                return lambda: True
            case _:
                raise AgentError("agent.question", f"the agent cannot {verb[:40]!r}")
        return lambda: not agent.busy

    def _changed(self, status: dict[str, Any]) -> None:
        for connection, done in [*self._waiting.items()]:
            if done():
                self._finish(connection, {"result": status})
            else:
                self._tell(connection, {"progress": status})

    def _finish(self, connection: socket.socket, line: dict[str, Any]) -> None:
        self._tell(connection, line)
        self._hang_up(connection)

    def _tell(self, connection: socket.socket, line: dict[str, Any]) -> None:
        try:
            connection.send(json.dumps(line).encode() + b"\n")
        except OSError:  # gone, or too slow to listen: it can ask again
            self._hang_up(connection)

    def _hang_up(self, connection: socket.socket) -> None:
        self._waiting.pop(connection, None)
        if self._questions.pop(connection, None) is not None:
            self._loop.unwatch(connection.fileno())
            connection.close()
