"""Owns the mosquitto process: finds the program, ends an orphan of ours, starts, watches, starts again with back-off,
stops.

A mosquitto is ours if it is of our user and runs with exactly our configuration file: after a kill -9 of the server
the next one finds it in /proc and ends it, whatever was or was not written before the kill."""

import asyncio
import contextlib
import os
import select
import shutil
import signal
import socket
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import structlog

from beamfleet_server.errors import ServerError

SBIN = ("/usr/local/sbin", "/usr/sbin")
"""Where Debian puts mosquitto; often not on the PATH of a user."""
READY_S = 15.0
STOP_S = 10.0
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0
"""A mosquitto that ran this long begins again with the first pause."""
LAST_LINES = 5

_log = structlog.get_logger(__name__)


def find_program(configured: Path | None, path: str | None = None) -> Path:
    """The mosquitto to run: the configured one, or that on `path` (default: PATH) or in `SBIN`; error
    `broker.missing`."""
    found = shutil.which(configured) if configured else None
    if configured is None:
        searched = os.pathsep.join((os.environ.get("PATH", "") if path is None else path, *SBIN))
        found = shutil.which("mosquitto", path=searched)
    if found is None:
        raise ServerError(
            "broker.missing",
            f"there is no mosquitto at {configured}" if configured else "mosquitto is not installed",
            "install it (Debian: apt install mosquitto; its service is not needed), or name it with --mosquitto",
        )
    return Path(found)


def port_free(host: str, port: int) -> bool:
    """True if a listener could bind this address now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


class BrokerProcess:
    """One mosquitto. Use: `end_orphan`, `start`, `watch` as a task, `stop`."""

    def __init__(self, program: Path, configuration: Path, host: str, port: int) -> None:
        self._command = (str(program), "-c", str(configuration))
        self._configuration = configuration
        self._host = host
        self._port = port
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._asked = False
        self._lines: deque[str] = deque(maxlen=LAST_LINES)

    @property
    def pid(self) -> int | None:
        """The pid of the running mosquitto."""
        return self._process.pid if self._process and self._process.returncode is None else None

    def end_orphan(self) -> None:
        """End what an earlier server has left running on our configuration."""
        for pid in _running_with(self._configuration):
            _log.warning("ending an orphaned broker", pid=pid)
            _end(pid)

    async def start(self) -> None:
        """Start it and wait until it takes connections; errors `server.port_taken`, `broker.failed`."""
        if not port_free(self._host, self._port):
            raise ServerError(
                "server.port_taken",
                f"the MQTT port {self._port} on {self._host} is in use",
                "stop what listens there, or choose another with --mqtt-port (0 takes a free one)",
            )
        try:
            await self._spawn()
        except OSError as error:
            hint = "name a mosquitto that runs here with --mosquitto"
            raise ServerError("broker.failed", f"{self._command[0]} cannot be run: {error.strerror}", hint) from None
        if not await self._answers():
            await self.stop()
            raise ServerError(
                "broker.failed",
                f"mosquitto does not start: {'; '.join(self._lines) or 'it says nothing'}",
                f"is {self._command[0]} mosquitto 2? run it by hand: {' '.join(self._command)}",
            )

    def reload(self) -> None:
        """Have it read certificates, access list and revocation list again. Only for one that listens: a signal at its
        first instructions would end it."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGHUP)

    def restart(self) -> None:
        """Have it end, with all sessions, and be started again by `watch`."""
        if self._process is not None and self._process.returncode is None:
            self._asked = True
            self._process.terminate()

    async def watch(self) -> None:
        """Start it again whenever it ends, until cancelled."""
        pause_s = FIRST_PAUSE_S
        while True:
            began = asyncio.get_running_loop().time()
            if self._process is not None:
                code = await self._process.wait()
                if self._asked:
                    self._asked, pause_s = False, FIRST_PAUSE_S
                    _log.info("the broker is started again, to end sessions")
                else:
                    _log.error("the broker ended", exit_code=code, detail="; ".join(self._lines))
            if asyncio.get_running_loop().time() - began > STEADY_S:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            with contextlib.suppress(OSError):
                await self._spawn()
                _log.info("the broker was started again", pid=self.pid)

    async def stop(self) -> None:
        """End it: SIGTERM, so that it keeps what it holds, and SIGKILL if it does not listen."""
        process = self._process
        if process is not None and process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._reader is not None:
            await self._reader

    async def _spawn(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            cwd=self._configuration.parent,  # its Unix socket has a relative path
            start_new_session=True,  # Ctrl-C in a terminal is for the server, which stops the broker last
        )
        self._reader = asyncio.create_task(self._read(self._process))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None  # noqa: S101 (asked for above)
        async for line in process.stderr:
            text = line.decode(errors="replace").rstrip()
            self._lines.append(text)
            _log.debug("broker", detail=text)

    async def _answers(self) -> bool:
        loop = asyncio.get_running_loop()
        end = loop.time() + READY_S
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)  # noqa: S104 (compared, not bound)
        while self.pid is not None and loop.time() < end:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(host, self._port)
                writer.close()
                return True
            await asyncio.sleep(0.02)
        return False


def _running_with(configuration: Path) -> Iterator[int]:
    wanted = ["-c", str(configuration)]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                ours = entry.stat().st_uid == os.geteuid() and Path(words[0]).name == "mosquitto"
                if ours and words[1:3] == wanted:
                    yield int(entry.name)


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            for blow in (signal.SIGTERM, signal.SIGKILL):
                signal.pidfd_send_signal(descriptor, blow)
                if select.select([descriptor], [], [], STOP_S)[0]:
                    return
        finally:
            os.close(descriptor)
