"""A whole fleet on one machine, run the way a user runs it: the CLI, a server process, devices in directories.

`Fleet` owns a working directory: `server/` (the server's data), `operator/` (the CLI's configuration) and one directory
a device. It starts the processes that an init would start and no others, ends by pid only what it started, and leaves
nothing running. The demo and the system tests stand on it.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
APP = "var/lib/beamfleet/apps/main"


class FleetError(Exception):
    """A step of the fleet did not come out as it had to; the text says which, with the output."""


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: str, look: Callable[[], T | None], *, deadline_s: float, every_s: float = 0.05) -> T:
    """The first true answer of `look`; FleetError with `what` when there is none in time. A look that costs much is
    rarer: what it waits for needs the processor as well."""
    end = time.monotonic() + deadline_s
    while True:
        began = time.monotonic()
        if answer := look():
            return answer
        if time.monotonic() > end:
            raise FleetError(f"waited {deadline_s:.0f} s for {what}")
        time.sleep(max(every_s, 2 * (time.monotonic() - began)))


def key_values(path: Path) -> dict[str, str]:
    """A file of KEY=value lines; {} when it is not there."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def read_pid(path: Path) -> int | None:
    """The pid in a pid file if that process lives (a zombie does not), else None."""
    try:
        pid = int(path.read_text().split()[0])
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError, IndexError):
        return None
    return None if state in "ZX" else pid


class Device:
    """One flashed directory and the respawning loop that stands for its init."""

    def __init__(self, name: str, root: Path, http_port: int) -> None:
        self.name, self.root, self.http_port = name, root, http_port
        self._init: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run DIR/run, as an inittab would."""
        with (self.root / "console.log").open("ab") as console:
            self._init = subprocess.Popen(
                [str(self.root / "run")], stdin=subprocess.DEVNULL, stdout=console, stderr=console
            )

    def stop(self) -> None:
        """TERM to DIR/run; it ends launcher, VM and agent and waits for them."""
        if self._init is None:
            return
        if self._init.poll() is None:
            self._init.terminate()
            try:
                self._init.wait(60)
            except subprocess.TimeoutExpired:
                self._init.kill()
                self._init.wait()
                raise FleetError(f"{self.name} did not stop in 60 s\n{self.console()}") from None
        self._init = None

    def console(self, lines: int = 60) -> str:
        """The newest lines that launcher and agent wrote."""
        try:
            return "\n".join((self.root / "console.log").read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def boot_state(self) -> dict[str, str]:
        """`boot/state` as it stands on disk."""
        return key_values(self.root / APP / "boot" / "state")

    def path(self, relative: str) -> Path:
        """A path below the application's directory."""
        return self.root / APP / relative

    def http(self, path: str = "/") -> dict[str, Any] | None:
        """What the application's own endpoint answers, None when it does not."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}{path}", timeout=2) as reply:
                answer: dict[str, Any] = json.load(reply)
                return answer
        except (OSError, ValueError, urllib.error.URLError):
            return None

    def vm_pid(self) -> int | None:
        """The running BEAM."""
        return read_pid(self.root / "var/run/beamfleet/main/vm.pid")

    def launcher_pid(self) -> int | None:
        """The running launcher."""
        return read_pid(self.root / "var/run/beamfleet/main/launcher.pid")

    def agent_pid(self) -> int | None:
        """The running resident agent."""
        return read_pid(self.root / "var/run/beamfleet/agent.pid")

    def worker_pid(self) -> int | None:
        """The agent's child that is at work now, if there is one."""
        agent = self.agent_pid()
        if agent is None:
            return None
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(Path(f"/proc/{agent}/task/{agent}/children").read_text().split()[0])
        return None


class Fleet:
    """A server, an operator and devices in one working directory.

    `settings` are further words of the `beamfleet serve` command line.
    """

    def __init__(self, work: Path, *, python: str = sys.executable, settings: Sequence[str] = ()) -> None:
        self.work, self.devices = work, dict[str, Device]()
        self.programs, self._settings = Path(python).parent, list(settings)
        self._server: subprocess.Popen[bytes] | None = None
        self.data = work / "server"
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("BEAMFLEET_")},
            "BEAMFLEET_CONFIG_DIR": str(work / "operator"),
            "COLUMNS": "160",
        }

    # --- the operator

    def cli(self, *words: str, ok: Sequence[int] = (0,), timeout_s: float = 180) -> subprocess.CompletedProcess[str]:
        """Run `beamfleet WORDS`; FleetError unless it exits with one of `ok`."""
        done = subprocess.run(
            [str(self.programs / "beamfleet"), *words],
            env=self._environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s,
        )  # fmt: skip
        if done.returncode not in ok:
            raise FleetError(
                f"beamfleet {' '.join(words)}: exit {done.returncode}, not {list(ok)}\n{done.stdout}{done.stderr}"
            )
        return done

    def json(self, *words: str, ok: Sequence[int] = (0,), timeout_s: float = 180) -> Any:
        """What `beamfleet WORDS -o json` prints, decoded."""
        return json.loads(self.cli(*words, "-o", "json", ok=ok, timeout_s=timeout_s).stdout)

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Start `beamfleet WORDS` and do not wait; its output can be read while it runs."""
        return subprocess.Popen(
            [str(self.programs / "beamfleet"), *words],
            env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def shown(self, *words: str, ok: Sequence[int] = (0,)) -> int:
        """Run `beamfleet WORDS` with its output on our own terminal; the exit code, which must be one of `ok`."""
        code = subprocess.run([str(self.programs / "beamfleet"), *words], env=self._environment, check=False).returncode
        if code not in ok:
            raise FleetError(f"beamfleet {' '.join(words)}: exit {code}, not {list(ok)}")
        return code

    # --- the server

    def serve(self) -> None:
        """Start the server and wait until it is ready."""
        words = [str(self.programs / "beamfleet"), "serve", "--data", str(self.data)]
        for port in ("operators", "devices", "enrolment", "mqtt", "metrics"):
            words += [f"--{port}-port", "0"]
        self.work.mkdir(parents=True, exist_ok=True)
        with (self.work / "server.log").open("ab") as log:
            self._server = subprocess.Popen(
                [*words, *self._settings], env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_for("the server to be ready", self._ready, deadline_s=60)

    def _ready(self) -> bool:
        assert self._server is not None
        if self._server.poll() is not None:
            raise FleetError(f"the server ended with {self._server.returncode}\n{self.server_log()}")
        try:
            if json.loads((self.data / "server.json").read_text())["pid"] != self._server.pid:
                return False
        except (OSError, ValueError, KeyError):
            return False
        if not (self.work / "operator" / "config.toml").exists():
            return True
        return self.cli("health", "-o", "json", ok=(0, 1)).returncode == 0

    def address(self, name: str) -> str:
        """Where a listener is: `operators`, `devices`, `enrolment` (URLs) or `mqtt` (host:port)."""
        return str(json.loads((self.data / "server.json").read_text())[name])

    def server_log(self, lines: int = 60) -> str:
        """The newest lines of the server's log."""
        return "\n".join((self.work / "server.log").read_text(errors="replace").splitlines()[-lines:])

    def server_pid(self) -> int:
        """The running server process."""
        assert self._server is not None
        return self._server.pid

    def broker_pid(self) -> int | None:
        """The mosquitto that the server spawned."""
        children = Path(f"/proc/{self.server_pid()}/task")
        with contextlib.suppress(OSError):
            for task in children.iterdir():
                for word in (task / "children").read_text().split():
                    with contextlib.suppress(OSError):
                        if Path(f"/proc/{word}/comm").read_text().strip() == "mosquitto":
                            return int(word)
        return None

    def kill_server(self) -> None:
        """SIGKILL to the server alone, and start it again: what an init does."""
        assert self._server is not None
        self._server.kill()
        self._server.wait()
        self.serve()

    def stop_server(self) -> None:
        """A clean stop."""
        if self._server is None:
            return
        self._server.terminate()
        try:
            code = self._server.wait(30)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
            raise FleetError(f"the server did not stop in 30 s\n{self.server_log()}") from None
        self._server = None
        if code not in (0, -signal.SIGKILL):
            raise FleetError(f"the server stopped with {code}\n{self.server_log()}")

    def log_in(self) -> None:
        """Log in to the server as its first operator, who sits beside it, whatever it is called elsewhere."""
        address = self.address("operators")
        if "--host" not in self._settings:
            address = f"https://127.0.0.1:{address.rpartition(':')[2]}"
        self.cli(
            "login", address,
            "--token-file", str(self.data / "admin.token"), "--ca", str(self.data / "ca.pem"),
        )  # fmt: skip

    def open(self, *products: str, development: bool = True) -> None:
        """Server, log-in, development keys, products: ready to flash. `development` False makes no keys."""
        self.serve()
        self.log_in()
        if development:
            self.cli("init", "--development")
        for product in products:
            self.cli("product", "create", product)

    # --- devices

    def flash(
        self, name: str, *, env: Mapping[str, str] | None = None, port_name: str = "SENSOR_GATEWAY_PORT",
        trial_s: int = 2, labels: Mapping[str, str] | None = None, health_interval_s: int = 60,
        more: Sequence[str] = (),
    ) -> Device:  # fmt: skip
        """Flash one directory device and start its init. `more`: further words of the command line."""
        device = Device(name, self.work / name, free_port())
        words = ["flash", "--root", str(device.root), "--id", name, "--single-user", "--allow-unsafe-filesystem"]
        words += ["--trial-s", str(trial_s), "--health-interval", str(health_interval_s)]
        for key, value in {port_name: str(device.http_port), **(env or {})}.items():
            words += ["--env", f"{key}={value}"]
        for key, value in (labels or {}).items():
            words += ["-l", f"{key}={value}"]
        self.cli(*words, *more)
        self.devices[name] = device
        device.start()
        return device

    def wait_online(self, *names: str, deadline_s: float = 180) -> None:
        """Until the server shows these devices online."""

        def online() -> bool:
            seen = {item["id"] for item in self.json("device", "list") if item["online"]}
            return set(names) <= seen

        wait_for(f"{', '.join(names)} to come online", online, deadline_s=deadline_s, every_s=0.3)

    def close(self) -> None:
        """Stop every device and the server; the first failure is raised when all have been tried."""
        failure: FleetError | None = None
        for device in self.devices.values():
            try:
                device.stop()
            except FleetError as error:
                failure = failure or error
        self.stop_server()
        if failure:
            raise failure


@contextlib.contextmanager
def fleet(work: Path, *products: str, settings: Sequence[str] = (), development: bool = True) -> Iterator[Fleet]:
    """An open fleet that is closed at the end; on a failure the logs of all parts are shown."""
    here = Fleet(work, settings=settings)
    try:
        here.open(*products, development=development)
        yield here
    except BaseException:
        for device in here.devices.values():
            print(f"--- {device.name}\n{device.console()}", file=sys.stderr)
        if (work / "server.log").exists():
            print(f"--- server\n{here.server_log()}", file=sys.stderr)
        raise
    finally:
        here.close()
