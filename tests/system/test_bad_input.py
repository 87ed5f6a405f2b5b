"""What people do wrong with a fleet, and what goes wrong around it: each gets a clear error with a stable code and a
remedy, nothing is half-done or left running, and what is only away for a while is waited for.

One fleet for the module. `stranger` is another fleet on the same machine, whose server nobody has initialised at first.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.examples import tarball
from tests.support.fleet import Device, Fleet, fleet, free_port, wait_for
from tests.support.refused import AGENT, Refused, agent_refused, refused, to_people

PRODUCT = "sensor-gateway"
RELEASE = ("sensor_gateway", "1.0.0")
SOON = ("--timeout", "90s")
MISTAKES = {
    "rollout.no_devices": ("rollout", "start", PRODUCT, "1.0.0", "-l", "name=nobody"),
    "release.unknown": ("rollout", "start", PRODUCT, "9.9.9", "--all"),
    "rollout.unknown": ("rollout", "abort", "999"),
    "usage.selector": ("rollout", "start", PRODUCT, "1.0.0"),
    "usage.label": ("rollout", "start", PRODUCT, "1.0.0", "-l", "berlin"),
    "usage.duration": ("rollout", "status", "--watch", "--timeout", "soon"),
    "device.unknown": ("device", "label", "nobody", "site=berlin"),
    "device.exists": ("token", "create", "a"),
    "name.device": ("token", "create", "Gateway_1"),
    "name.product": ("product", "create", "My_App"),
    "name.hardware": ("flash", "--root", "{work}/none", "--id", "none", "--hardware", "Pi 4"),
    "token.missing": ("flash", "--root", "{work}/none", "--id", "none", "--token-file", "/dev/null"),
    "flash.other_device": ("flash", "--root", "{work}/a", "--id", "b"),
    "setup.unsafe_filesystem": ("flash", "--root", "/dev/shm/none", "--id", "none", "--single-user"),
    "file.unreadable": ("flash", "--root", "{work}/none", "--id", "none", "--token-file", "{work}/missing"),
    "context.unknown": ("--context", "nobody", "device", "list"),
    "login.missing": ("--config-dir", "{work}/none", "push", "release.tar.gz", "--all"),
    "auth.required": ("login", "{operators}", "--token-file", "{wrong_token}", "--ca", "{ca}"),
    "server.ca_missing": ("login", "{operators}", "--token-file", "{token}", "--ca", "{token}"),
    "server.untrusted": ("login", "{operators}", "--token-file", "{token}", "--ca", "{other_ca}"),
    "server.malformed": ("login", "{enrolment}", "--token-file", "{token}", "--ca", "{ca}"),
    "server.unreachable": ("login", "https://127.0.0.1:1", "--token-file", "{token}", "--ca", "{ca}"),
    "login.url": ("login", "http://127.0.0.1:1", "--token-file", "{token}", "--ca", "{ca}"),
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("here"), PRODUCT) as opened:
        token = opened.work / "a.token"
        opened.cli("token", "create", "a", "-l", "name=a", "--out", str(token))
        opened.flash("a", more=["--token-file", str(token)])
        opened.wait_online("a")
        yield opened


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    other = Fleet(tmp_path_factory.mktemp("stranger"))
    other.serve()
    other.log_in()
    yield other
    other.close()


def running_on(directory: Path) -> list[str]:
    """The command lines of all processes that name a directory."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return [line for line in lines if str(directory) in line]


# --- a server that cannot start


def serve(data: Path, *words: str, before: tuple[str, ...] = ()) -> Refused:
    """The error of a server that does not start; nothing of it may run on."""
    command = [*before, str(Path(sys.executable).parent / "beamfleet"), "serve", "--data", str(data)]
    for name in ("operators", "devices", "enrolment", "mqtt", "metrics"):
        command += [] if f"--{name}-port" in words else [f"--{name}-port", "0"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=60)
    assert running_on(data) == []
    return to_people(done)


def test_a_missing_mosquitto_is_named_with_its_package_and_nothing_is_made(tmp_path: Path) -> None:
    """In a mount namespace of its own /dev/null lies over mosquitto."""
    program = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    assert program
    hide = ("unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",)), "sh", "-c")
    hide += ('mount --bind /dev/null "$1" && shift && exec "$@"', "sh", program)
    tried = subprocess.run([*hide, "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"mosquitto cannot be hidden here: {tried.stderr.strip()}")
    heard = serve(tmp_path / "data", before=hide)
    assert heard.code == "broker.missing"
    assert "apt install mosquitto" in heard.hint
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("listener", ["operators", "mqtt"])
def test_a_port_that_is_taken_is_named_with_its_flag(here: Fleet, tmp_path: Path, listener: str) -> None:
    port = here.address("operators").rpartition(":")[2]
    heard = serve(tmp_path / "data", f"--{listener}-port", port)
    assert heard.code == "server.port_taken"
    assert port in heard.message
    assert f"--{listener}-port" in heard.hint


def test_a_second_server_on_one_data_directory_is_told_the_process_of_the_first(here: Fleet) -> None:
    before = here.server_pid(), here.broker_pid()
    command = [str(here.programs / "beamfleet"), "serve", "--data", str(here.data)]
    heard = to_people(subprocess.run(command, capture_output=True, text=True, timeout=60))
    assert heard.code == "server.data_in_use"
    assert f"(pid {here.server_pid()})" in heard.message
    assert (here.server_pid(), here.broker_pid()) == before
    assert here.json("health")["broker"] == "up"


def test_settings_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text("operators_port = \n")
    (tmp_path / "file").write_text("not a directory")
    assert serve(tmp_path / "d", "--config", str(tmp_path / "none.toml")).code == "server.settings"
    assert serve(tmp_path / "d", "--config", str(tmp_path / "server.toml")).code == "server.settings"
    assert serve(tmp_path / "d", "--operators-port", "99999").code == "server.settings"
    assert serve(tmp_path / "file").code == "server.data_unusable"
    assert serve(tmp_path / "d", "--mosquitto", "/bin/true").code == "broker.failed"


# --- an operator who errs


@pytest.mark.parametrize("code", MISTAKES)
def test_a_mistake_is_told_with_the_way_out_and_changes_nothing(
    here: Fleet, stranger: Fleet, published: None, code: str
) -> None:
    places = {
        "work": here.work,
        "operators": here.address("operators"),
        "enrolment": here.address("enrolment"),
        "token": here.data / "admin.token",
        "wrong_token": here.work / "a.token",
        "ca": here.data / "ca.pem",
        "other_ca": stranger.data / "ca.pem",
    }
    words = [word.format(**places) for word in MISTAKES[code]]
    before = files_of_operator(here)
    assert refused(here, *words, exit_code=2 if code.startswith("usage.") else 1).code == code
    assert files_of_operator(here) == before
    assert not (here.work / "none").exists()


def files_of_operator(here: Fleet) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (here.work / "operator").rglob("*") if path.is_file()}


def test_no_mistake_has_begun_a_rollout_or_made_a_device(here: Fleet, published: None) -> None:
    assert here.json("rollout", "history") == []
    assert [item["id"] for item in here.json("device", "list")] == ["a"]


@pytest.fixture(scope="module")
def published(here: Fleet) -> None:
    """1.0.0 is on the server; the push that brought it there found nobody."""
    done = here.cli("push", str(tarball(*RELEASE)), "-l", "name=nobody", ok=(1,))
    assert to_people(done).code == "rollout.no_devices"
    assert [item["version"] for item in here.json("bundle", "list")] == ["1.0.0"]


def test_a_push_of_a_product_that_nobody_made_says_how_to_make_it(here: Fleet) -> None:
    heard = to_people(here.cli("push", str(tarball(*RELEASE)), "--product", "other", "--all", ok=(1,)))
    assert (heard.code, heard.hint) == ("product.unknown", "beamfleet product create other")


def test_before_init_everything_that_needs_keys_says_init(stranger: Fleet) -> None:
    for words in (
        ("push", str(tarball(*RELEASE)), "--all"),
        ("product", "create", PRODUCT),
        ("flash", "--root", str(stranger.work / "none"), "--id", "none", "--single-user", "--allow-unsafe-filesystem"),
    ):
        heard = refused(stranger, *words)
        assert (heard.code, heard.hint) == ("init.missing", "beamfleet init --development")
    assert not (stranger.work / "none").exists()


def test_a_bundle_of_another_fleet_is_neither_published_nor_installed(
    here: Fleet, stranger: Fleet, tmp_path: Path
) -> None:
    stranger.cli("init", "--development")
    stranger.cli("product", "create", PRODUCT)
    words = ("bundle", "build", str(tarball("sensor_gateway", "1.1.0")), "--version", "6.6.6", "--out", str(tmp_path))
    bundle = str(stranger.json(*words)["path"])
    stranger.cli("bundle", "sign", bundle)
    for place in (("bundle", "publish", bundle), ("push", bundle, "--all")):
        assert to_people(here.cli(*place, ok=(1,))).code == "bundle.untrusted"
    assert agent_refused(here.devices["a"], "install", bundle).code == "trust.signature"
    assert "6.6.6" not in {item["version"] for item in here.json("bundle", "list")}
    no_devices = to_people(stranger.cli("push", bundle, "--all", ok=(1,)))
    assert (no_devices.code, no_devices.message) == ("rollout.no_devices", "the fleet has no device yet")


def test_a_server_that_is_stopped_is_told_by_every_command(stranger: Fleet) -> None:
    stranger.stop_server()
    try:
        assert refused(stranger, "device", "list").code == "server.unreachable"
        for words in (("push", str(tarball(*RELEASE)), "--all"), ("events", "--follow")):
            assert to_people(stranger.cli(*words, ok=(1,))).code == "server.unreachable"
    finally:
        stranger.serve()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Children hear SIGINT, also where this process was started without it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_a_deadline_and_an_abort_each_end_the_following_with_their_own_code(
    here: Fleet, published: None, interruptible: None
) -> None:
    here.devices["a"].stop()
    try:
        following = here.begin("rollout", "start", PRODUCT, "1.0.0", "-l", "name=a", "--watch")
        assert following.stderr
        first = following.stderr.readline()
        following.send_signal(signal.SIGINT)
        out, err = following.communicate(timeout=20)
        assert (following.returncode, out) == (130, "")
        number = first.split()[1].rstrip(":")
        assert f"beamfleet rollout status {number} --watch" in err
        assert "Traceback" not in err

        late = here.json("rollout", "status", number, "--watch", "--timeout", "1s", ok=(5,))
        assert (late["state"], late["devices"][0]["state"]) == ("running", "offered")

        following = here.begin("rollout", "status", number, "--watch")
        assert following.stderr
        following.stderr.readline()
        here.cli("rollout", "abort", number)
        out, err = following.communicate(timeout=20)
        assert (following.returncode, "(rollout.aborted)" in err) == (4, True)
    finally:
        here.devices["a"].start()
    here.wait_online("a")
    assert here.devices["a"].boot_state()["slot"] == "", "an aborted rollout is not offered to who comes late"


# --- tokens


def lay_down(here: Fleet, directory: str, device: str, *more: str, start: bool = True) -> Device:
    """Flash a directory, and start its init where it does not run yet."""
    root = here.work / directory
    here.cli("flash", "--root", str(root), "--id", device, "--single-user", "--allow-unsafe-filesystem", *more)
    if directory not in here.devices:
        here.devices[directory] = Device(device, root, free_port())
        if start:
            here.devices[directory].start()
    return here.devices[directory]


def said(device: Device, event: str) -> list[dict[str, Any]]:
    """What the agent has logged under a phrase."""
    lines = [json.loads(line) for line in device.console(10_000).splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def test_a_wrong_used_or_expired_token_is_told_once_and_a_good_one_mends_it(here: Fleet) -> None:
    made = here.json("token", "create", "late", "--expires", "1s")
    (here.work / "late.token").write_text(made["token"])
    expires = datetime.fromisoformat(made["expires"])
    wait_for("the token to expire", lambda: datetime.now(UTC) > expires, deadline_s=5)
    bad = {
        "token.wrong": lay_down(here, "wrong", "wrong", "--token-file", str(here.work / "late.token")),
        "token.used": lay_down(here, "clone", "a", "--token-file", str(here.work / "a.token")),
        "token.expired": lay_down(here, "late", "late", "--token-file", str(here.work / "late.token")),
    }
    for code, device in bad.items():
        (told,) = wait_for(code, partial(said, device, "enrolment failed"), deadline_s=20)
        assert told["code"] == code
        assert told["retry_after_s"] >= 60, "it does not ask again and again what will not change"
        assert "flash the device again" in told["hint"]
        assert code in subprocess.check_output([AGENT, "status", "--root", device.root], text=True)
    assert [here.server_log().count(f"code={code}") for code in bad] == [1] * len(bad)

    for name in ("wrong", "late"):
        lay_down(here, name, name)
    here.wait_online("wrong", "late", "a", deadline_s=20)
    for name in ("wrong", "late"):
        assert not (here.work / name / "var/lib/beamfleet/identity/token").exists()
    for device in bad.values():
        assert len(said(device, "enrolment failed")) == 1
        here.devices.pop(device.root.name).stop()


# --- two of a kind


def test_a_second_agent_launcher_or_init_on_one_root_is_told_the_process_of_the_first(here: Fleet) -> None:
    device = here.devices["a"]
    before = device.agent_pid(), device.launcher_pid()
    second = subprocess.run([AGENT, "run", "--root", device.root], capture_output=True, text=True, timeout=20)
    heard = to_people(second)
    assert heard.code == "agent.already_running"
    assert f"agent {before[0]} " in heard.message
    second = subprocess.run([device.root / "run"], capture_output=True, text=True, timeout=20)
    heard = to_people(second)
    assert heard.code == "run.already_running"
    assert f"process {(device.root / 'var/run/beamfleet/init.pid').read_text().strip()} " in heard.message
    launcher = ["sh", str(device.root / "usr/lib/beamfleet/launcher"), str(device.root)]
    second = subprocess.run(launcher, capture_output=True, text=True, timeout=20)
    assert second.returncode == 75
    assert f"process {before[1]}," in second.stderr
    assert (device.agent_pid(), device.launcher_pid()) == before
    here.wait_online("a", deadline_s=5)


def test_a_directory_that_is_no_device_is_told_by_every_command_of_the_agent(tmp_path: Path) -> None:
    nowhere = Device("nowhere", tmp_path, 0)
    for words in (("status",), ("install", __file__), ("rollback",), ("diagnose",)):
        assert agent_refused(nowhere, *words).code == "agent.settings_missing"
    assert list(tmp_path.iterdir()) == []


# --- servers and brokers that are away


def test_devices_that_start_without_a_server_come_by_themselves(here: Fleet) -> None:
    enrolled, fresh = here.devices["a"], lay_down(here, "fresh", "fresh", start=False)
    enrolled.stop()
    here.stop_server()
    before = len(said(enrolled, "session down"))
    try:
        enrolled.start()
        fresh.start()
        wait_for("a to find no broker", lambda: len(said(enrolled, "session down")) > before, deadline_s=20)
        (told, *_) = wait_for("fresh to find no server", lambda: said(fresh, "enrolment failed"), deadline_s=20)
        assert told["code"] == "worker.network"
    finally:
        here.serve()
    here.wait_online("a", "fresh")
    here.devices.pop("fresh").stop()


def test_a_device_that_starts_while_the_broker_is_frozen_comes_by_itself(here: Fleet) -> None:
    broker = here.broker_pid()
    assert broker
    here.devices["a"].stop()
    os.kill(broker, signal.SIGSTOP)
    try:
        here.devices["a"].start()
        wait_for("the agent", here.devices["a"].agent_pid, deadline_s=10)
    finally:
        os.kill(broker, signal.SIGCONT)
    here.wait_online("a")


def looked_for_renewal(device: Device) -> bool:
    """Whether the agent has done, since it started, what gives it a worker without an order; that worker is gone."""
    started = said(device, "agent started")[-1]["timestamp"]
    looked = any(each["job"] == "renew" and each["timestamp"] > started for each in said(device, "job done"))
    return looked and device.worker_pid() is None


@pytest.mark.parametrize(("away", "version"), [("server", "1.0.0"), ("broker", "1.1.0")])
def test_an_update_survives_the_loss_of_server_or_broker_in_its_middle(here: Fleet, away: str, version: str) -> None:
    """The worker is held while it happens: it finds the server gone when it goes on."""
    device = here.devices["a"]
    wait_for("the agent's first look at its certificate", lambda: looked_for_renewal(device), deadline_s=60)
    failures = len(said(device, "job failed"))
    push = here.begin("push", str(tarball("sensor_gateway", version)), "-l", "name=a", *SOON)
    worker = wait_for("the worker", device.worker_pid, deadline_s=30, every_s=0.002)
    os.kill(worker, signal.SIGSTOP)
    if away == "server":
        here.stop_server()
        os.kill(worker, signal.SIGCONT)
        wait_for("the worker to fail", lambda: len(said(device, "job failed")) > failures, deadline_s=30)
        assert said(device, "job failed")[-1]["code"] == "worker.network"
        here.serve()
    else:
        broker = here.broker_pid()
        assert broker
        os.kill(broker, signal.SIGKILL)
        wait_for("another broker", lambda: here.broker_pid() not in (None, broker), deadline_s=30)
        os.kill(worker, signal.SIGCONT)
    out, err = push.communicate(timeout=100)
    assert push.returncode == 0, out + err
    assert "Traceback" not in err
    assert device.boot_state()["phase"] == "committed"
    assert wait_for("an answer", device.http, deadline_s=10)["version"] == version
    wait_for("both sides to agree", lambda: here.json("device", "show", "a")["version"] == version, deadline_s=20)
    assert here.json("rollout", "status")["state"] == "completed"
    assert "Traceback" not in (here.work / "server.log").read_text()
