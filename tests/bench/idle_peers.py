"""Other people's agents, idling as in the field: bare Python, `rauc service`, Debian's mender-client. Measures nothing.

Each is a context manager that yields the pid of a running, settled process and afterwards ends, by pid, what it
started. It has a private message bus, its own configuration and data below `work`, and no fixed port.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.bench.mender_server import MenderServer
from tests.support.fleet import FleetError, wait_for

BUS = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"""
RAUC = """[system]
compatible=beamfleet-bench
bootloader=noop

[slot.rootfs.0]
device={work}/slot.0
type=raw
bootname=A

[slot.rootfs.1]
device={work}/slot.1
type=raw
bootname=B
"""
MENDER_SETTINGS, MENDER_IDENTITY = Path("/etc/mender"), Path("/usr/share/mender/identity")
SETTLE_S = 60


class UnavailableError(Exception):
    """This peer cannot be had here; the text says why."""


def bare_python(work: Path) -> contextlib.AbstractContextManager[int]:
    """The interpreter that runs the benchmark and the agent, asleep, with nothing imported."""
    work.mkdir()
    return _running([sys.executable, "-c", "import time; time.sleep(10**9)"], work / "log")


@contextlib.contextmanager
def rauc(work: Path) -> Iterator[int]:
    """`rauc service` with two raw slots, having answered one `rauc status`. UnavailableError when it cannot be had."""
    program, dbus_daemon = _program("rauc", "rauc"), _program("dbus-daemon", "dbus-daemon")
    work.mkdir()
    (work / "system.conf").write_text(RAUC.format(work=work))
    for slot in ("slot.0", "slot.1"):
        (work / slot).write_bytes(bytes(4096))
    words = [program, f"--conf={work / 'system.conf'}"]
    with (
        _bus(dbus_daemon, work) as environment,
        _running([*words, "--override-boot-slot=A", "service"], work / "log", environment) as pid,
    ):

        def answers() -> bool:
            return subprocess.run([*words, "status"], env=environment, capture_output=True).returncode == 0

        _settle("rauc service to answer", answers, pid, work / "log")
        yield pid


@contextlib.contextmanager
def mender(work: Path) -> Iterator[int]:
    """`mender daemon`, accepted by a server that has no update for it, all its intervals at their defaults.

    Its paths are built in: it sees its own /etc/mender and identity script in a mount namespace of its own.
    UnavailableError when it cannot be had.
    """
    program, dbus_daemon = _program("mender", "mender-client"), _program("dbus-daemon", "dbus-daemon")
    if os.geteuid() != 0:
        raise UnavailableError("only root can give it a mount namespace with its own /etc/mender")
    settings, identity, data = work / "etc", work / "identity", work / "data"
    for folder in (settings, identity, data):
        folder.mkdir(parents=True)
    script = identity / "mender-device-identity"
    script.write_text("#!/bin/sh\necho mac=02:00:00:00:00:01\n")
    script.chmod(0o755)
    (settings / "artifact_info").write_text("artifact_name=release-1\n")
    (data / "device_type").write_text("device_type=bench\n")
    mounts = f'mount --bind "$1" {MENDER_SETTINGS} && mount --bind "$2" {MENDER_IDENTITY} && shift 2 && exec "$@"'
    words = ["unshare", "--mount", "sh", "-c", mounts, "sh", str(settings), str(identity)]
    with MenderServer(work) as server, _bus(dbus_daemon, work) as environment:
        conf = {"ServerURL": server.address, "ServerCertificate": str(server.certificate)}
        (settings / "mender.conf").write_text(json.dumps(conf))
        daemon = [program, "--no-syslog", "--data", str(data), "daemon"]
        with _running([*words, *daemon], work / "log", environment) as pid:
            _settle("mender to ask for an update", server.asked.is_set, pid, work / "log")
            yield pid


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    if not found:
        raise UnavailableError(f"there is no {name} here (Debian package {package})")
    return found


@contextlib.contextmanager
def _bus(dbus_daemon: str, work: Path) -> Iterator[Mapping[str, str]]:
    """A private message bus; the environment in which it is the system's bus."""
    socket, configuration, log = work / "bus", work / "bus.conf", work / "bus.log"
    configuration.write_text(BUS.format(socket=socket))
    with _running([dbus_daemon, f"--config-file={configuration}", "--nofork"], log) as pid:
        _settle("a private message bus", socket.exists, pid, log)
        yield {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={socket}"}


@contextlib.contextmanager
def _running(words: list[str], log: Path, environment: Mapping[str, str] | None = None) -> Iterator[int]:
    """A child process from here to the end of the block."""
    with log.open("ab") as output:
        child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
    try:
        yield child.pid
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _settle(what: str, look: Callable[[], bool], pid: int, log: Path) -> None:
    """Wait until `look` is true. UnavailableError, quoting the log, when the process ends first or time is up."""

    def settled() -> bool:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            raise UnavailableError(f"it ended: {_last_line(log)}")
        return look()

    try:
        wait_for(what, settled, deadline_s=SETTLE_S)
    except FleetError as error:
        raise UnavailableError(f"{error}: {_last_line(log)}") from error


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
