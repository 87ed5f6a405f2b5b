"""The main job end to end: tarballs of every kind go in at the operator's command line, BEAMs run them on devices.

One fleet for the module: a device for each product, with relx and mix examples of ours and three foreign releases that
were made without a thought of beamfleet.
"""

import base64
import json
import re
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from tests.support.examples import tarball
from tests.support.fleet import Device, Fleet, fleet, wait_for

PRODUCTS = {
    "sensor-gateway": ("sensor_gateway", "1.0.0", "SENSOR_GATEWAY_PORT"),
    "edge-hub": ("edge_hub", "1.0.0", "EDGE_HUB_PORT"),
    "foreign-relx": ("foreign_relx", "0.3.0", "FOREIGN_PORT"),
    "foreign-mix": ("foreign_mix", "0.3.0", "FOREIGN_PORT"),
    "foreign-systools": ("foreign_systools", "0.3.0", "FOREIGN_PORT"),
}


class Spy(threading.Thread):
    """Collects every command line that ever shows in the process list."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._stop_asked = threading.Event()
        self.seen: set[bytes] = set()

    def run(self) -> None:
        while not self._stop_asked.wait(0.02):
            for entry in Path("/proc").iterdir():
                try:
                    self.seen.add((entry / "cmdline").read_bytes())
                except OSError:
                    continue

    def stop(self) -> None:
        """End the collection."""
        self._stop_asked.set()
        self.join()


@pytest.fixture(scope="module")
def spy() -> Iterator[Spy]:
    watcher = Spy()
    watcher.start()
    yield watcher
    watcher.stop()


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, spy: Spy) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("main"), *PRODUCTS) as opened:
        for product, (_, _, port) in PRODUCTS.items():
            opened.flash(
                f"one-{product}", port_name=port, labels={"runs": product}, env={"APP_SECRET": "s3cr3t-of-app"}
            )
        opened.wait_online(*opened.devices)
        yield opened


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_release_of_any_kind_goes_from_its_tarball_to_a_committed_device(here: Fleet, product: str) -> None:
    name, version, _ = PRODUCTS[product]
    here.cli("push", str(tarball(name, version)), "-l", f"runs={product}", "--timeout", "90")
    device = here.devices[f"one-{product}"]
    state = device.boot_state()
    assert state["phase"] == "committed"
    shown = here.json("device", "show", device.name)
    assert (shown["product"], shown["version"], shown["slot"]) == (product, version, state["slot"])
    answer = wait_for(f"{device.name} to answer", device.http, deadline_s=10)
    assert answer["version"] == version
    assert str(device.path("current").readlink()) == f"slots/{state['slot']}"


def test_the_count_of_an_elixir_release_survives_an_update(here: Fleet) -> None:
    device = here.devices["one-edge-hub"]
    before = wait_for("the first answer", device.http, deadline_s=10)
    here.cli("push", str(tarball("edge_hub", "1.1.0")), "-l", "runs=edge-hub", "--timeout", "90")
    after = wait_for(
        "an answer of 1.1.0", lambda: (a := device.http()) and a["version"] == "1.1.0" and a, deadline_s=10
    )
    assert after["count"] >= before["count"] > 0


def test_the_same_push_again_changes_nothing_on_the_device(here: Fleet) -> None:
    device = here.devices["one-foreign-relx"]
    starts = device.boot_state()["starts"]
    here.cli("push", str(tarball("foreign_relx", "0.3.0")), "-l", "runs=foreign-relx", "--timeout", "60")
    assert device.boot_state()["starts"] == starts


def listening(pids: set[int]) -> set[tuple[str, int]]:
    """The (address, port) pairs of all listening TCP sockets and bound UDP sockets of these processes."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                target = str(descriptor.readlink())
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = set()
    for table, wanted in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] != wanted or fields[9] not in inodes:
                continue
            address, _, port = fields[1].partition(":")
            words = [struct.pack("<I", int(address[i : i + 8], 16)) for i in range(0, len(address), 8)]
            family = socket.AF_INET if len(address) == 8 else socket.AF_INET6
            found.add((socket.inet_ntop(family, b"".join(words)), int(port, 16)))
    return found


def processes_of(device: Device) -> set[int]:
    """Every process whose command line or executable names the device's directory."""
    mark, found = str(device.root).encode(), set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            executable = str((entry / "exe").readlink()).encode()
            if mark in (entry / "cmdline").read_bytes() or mark in executable:
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def test_a_device_listens_on_nothing_but_loopback(here: Fleet) -> None:
    for device in here.devices.values():
        pids = processes_of(device)
        assert device.vm_pid() in pids
        assert device.agent_pid() in pids
        names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids}
        assert "epmd" not in names
        assert "heart" in names
        sockets = listening(pids)
        assert (("127.0.0.1", device.http_port)) in sockets, "the probe of this test sees sockets"
        assert {address for address, _ in sockets} <= {"127.0.0.1", "::1"}, device.name


def private_keys(directory: Path) -> dict[str, Path]:
    """Public halves (hex of the raw Ed25519 key, or PEM) of all private keys below a directory."""
    found = {}
    for path in directory.rglob("*"):
        if not path.is_file():
            continue
        for block in re.findall(
            rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", path.read_bytes(), re.DOTALL
        ):
            public = load_pem_private_key(block, None).public_key()
            try:
                found[public.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()] = path
            except ValueError:
                found[public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()] = path
    return found


def test_the_server_holds_no_key_that_can_make_a_runnable_bundle(here: Fleet) -> None:
    reply = here.json("config")
    assert reply
    on_server, on_operator = private_keys(here.data), private_keys(here.work / "operator")
    publics = {}
    for root in (here.work / "one-edge-hub/etc/beamfleet/root.json",):
        signed = json.loads(root.read_text())["signed"]
        for role in ("root", "targets"):
            for keyid in signed["roles"][role]["keyids"]:
                publics[signed["keys"][keyid]["keyval"]["public"]] = role
    assert publics, "the root names keys of root and targets"
    assert on_operator.keys() >= publics.keys(), "the operator has them"
    assert not on_server.keys() & on_operator.keys()
    assert len(on_operator) >= len(publics) + len(PRODUCTS)
    assert len(on_server) >= 3


def test_no_secret_ever_shows_in_the_process_list(here: Fleet, spy: Spy) -> None:
    secrets = {"the admin token": (here.data / "admin.token").read_bytes().strip(), "a setting": b"s3cr3t-of-app"}
    for directory in (here.data, here.work / "operator", here.work / "one-edge-hub"):
        for path in directory.rglob("*"):
            if path.is_file() and b"PRIVATE KEY" in (content := path.read_bytes()):
                for line in content.splitlines():
                    if len(line) > 40 and b" " not in line:
                        secrets[str(path)] = line
    for token in here.work.rglob("identity/token"):
        secrets[str(token)] = token.read_bytes().strip()
    assert len(secrets) > 5
    assert any(b"beam.smp" in line for line in spy.seen.copy()), "the spy saw VMs"
    for what, secret in secrets.items():
        shown = [line for line in spy.seen.copy() if secret in line or base64.b64encode(secret) in line]
        if what == "a setting":
            shown = [line for line in shown if b"flash" not in line]
        assert not shown, what


def test_a_bundle_installs_from_a_file_with_the_server_gone(here: Fleet, tmp_path: Path) -> None:
    here.cli("bundle", "build", str(tarball("sensor_gateway", "1.1.0")), "--out", str(tmp_path))
    bundle = next(tmp_path.glob("*.bundle"))
    here.cli("bundle", "sign", str(bundle))
    device = here.devices["one-sensor-gateway"]
    before = wait_for("the first answer", device.http, deadline_s=10)
    here.stop_server()
    try:
        agent = here.programs / "beamfleet-agent"
        done = subprocess.run(
            [str(agent), "install", str(bundle), "--root", str(device.root), "-o", "json"],
            capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        after = wait_for("1.1.0", lambda: (a := device.http()) and a["version"] == "1.1.0" and a, deadline_s=10)
        assert after["count"] >= before["count"]
        assert device.boot_state()["phase"] == "committed"
    finally:
        here.serve()
