"""A real VM with beamfleet_link in it, as the launcher puts it there, and what an agent gets from it."""

import functools
import json
import os
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.fleet import wait_for

ROOT = Path(__file__).resolve().parents[3]
SOURCE = ROOT / "firmware_bundles/beamfleet_link/src/beamfleet_link.erl"
DEADLINE_S = 20.0
EMBEDDED = ("-noshell", "-mode", "embedded", "-boot", "start_sasl")

# Evaluates each line of stdin and answers with one line, so that a test can reach into the VM; between the answers
# stdout has whatever the VM logs.
LISTENER = """
Loop = fun(Again) ->
    case io:get_line("") of
        eof -> ok;
        Line ->
            {ok, Tokens, _} = erl_scan:string(Line),
            {ok, Expressions} = erl_parse:parse_exprs(Tokens),
            Value = try erl_eval:exprs(Expressions, []) of {value, Found, _} -> Found catch C:R -> {C, R} end,
            io:format("~n=> ~0tp~n", [Value]),
            Again(Again)
    end
end,
spawn(fun() -> Loop(Loop) end).
"""


@functools.cache
def compiled(source: str) -> tuple[str, bytes]:
    """The name of a module and its beam."""
    name = source.split("-module(")[1].split(")")[0]
    with tempfile.TemporaryDirectory() as work:
        Path(work, f"{name}.erl").write_text(source)
        subprocess.run(["erlc", f"{name}.erl"], cwd=work, check=True)
        return name, Path(work, f"{name}.beam").read_bytes()


def load(beam: Path) -> str:
    """The expression that loads a compiled module."""
    return f"{{module, _}} = code:load_abs({quoted(beam.with_suffix(''))})"


def quoted(path: Path | str) -> str:
    return json.dumps(str(path))


class Vm:
    """A real VM in embedded mode whose boot ends with the launcher's caught -eval.

    `probes` are Erlang tuples, `arguments` further words of the command line, before that -eval.
    """

    def __init__(
        self,
        beam: Path,
        run: Path,
        boot: int = 1,
        *,
        socket_path: str = "",
        started: str = "",
        probes: Sequence[str] = (),
        arguments: Sequence[str] = (),
    ) -> None:
        self.run, self.boot = run, boot
        self.socket = Path(socket_path or run / "link.sock")
        self.started = Path(started or run / f"started.{boot}")
        options = f"socket => {quoted(self.socket)}, started => {quoted(self.started)}, boot => {boot}"
        start = f"beamfleet_link:start(#{{{options}, probes => [{', '.join(probes)}]}})"
        self.process = subprocess.Popen(
            ["erl", *EMBEDDED, *arguments, "-eval", f"catch begin {load(beam)}, {start} end.", "-eval", LISTENER],
            cwd=run,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def await_started(self) -> "Vm":
        wait_for("started", self.started.exists, deadline_s=DEADLINE_S)
        return self

    def load(self, source: str) -> "Vm":
        """Compile the text of a module and load it; the VM itself has no compiler."""
        name, beam = compiled(source)
        (self.run / f"{name}.beam").write_bytes(beam)
        assert self.evaluate(f"code:load_abs({quoted(name)}).") == f"{{module,{name}}}"
        return self

    def evaluate(self, expressions: str) -> str:
        """The value of Erlang expressions, as the VM prints it."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(expressions + "\n")
        self.process.stdin.flush()
        values = (line[3:].strip() for line in self.process.stdout if line.startswith("=> "))
        return next(values)

    def connect(self) -> socket.socket:
        """A connection, as soon as the link listens."""

        def attempt() -> socket.socket | None:
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(DEADLINE_S)
            try:
                client.connect(os.path.relpath(self.socket))
            except (FileNotFoundError, ConnectionRefusedError):
                client.close()
                return None
            return client

        return wait_for("the link's socket", attempt, deadline_s=DEADLINE_S)

    def ask(self) -> dict[str, Any]:
        """What an agent gets: one line, then the end."""
        with self.connect() as client:
            return answer(client)

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def answer(client: socket.socket) -> dict[str, Any]:
    with client.makefile("rb") as lines:
        line, rest = lines.readline(), lines.read()
    assert line.endswith(b"\n")
    assert rest == b""
    said = json.loads(line)
    assert isinstance(said, dict)
    return said
