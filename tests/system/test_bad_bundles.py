"""Bundles that must not run, at each place where one can be given: `publish`, `push FILE.bundle`, a rollout, and
`beamfleet-agent install FILE` on the device. Refused by code and remedy; what runs goes on, and nothing stays behind.

One fleet for the module; its device runs 1.0.0 all the time.
"""

import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from beamfleet_bundles.bundle import Bundle
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Targets

from tests.support.examples import tarball
from tests.support.fleet import Device, Fleet, fleet, wait_for
from tests.support.refused import agent_refused, refused, to_people
from tests.system.conftest import SmallDisk

PRODUCT = "sensor-gateway"
ON_A = ("-l", "name=a")
BY_OPERATOR = {
    "truncated": "bundle.truncated",
    "altered": "bundle.altered",
    "exchanged": "bundle.untrusted",
    "wrong-key": "bundle.untrusted",
    "no-bundle": "bundle.not_a_bundle",
}
BY_DEVICE = {
    "unsigned": "trust.incomplete",
    "truncated": "bundle.truncated",
    "altered": "slot.altered pack.frame",  # as the altered byte falls
    "exchanged": "trust.mismatch",
    "wrong-key": "trust.signature",
    "no-bundle": "bundle.not_a_bundle",
    "other-board": "assignment.wrong_hardware",
    "no-library": "assignment.missing_library",
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("bundles"), PRODUCT) as opened:
        opened.flash("a", labels={"name": "a"})
        opened.wait_online("a")
        opened.cli("push", str(tarball("sensor_gateway", "1.0.0")), *ON_A, "--timeout", "60s")
        yield opened


@pytest.fixture(scope="module")
def without_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.0.0 with a crypto.so that asks for a library which no system has."""
    path = tmp_path_factory.mktemp("patched") / "release.tar.gz"
    patched = 0
    with tarfile.open(tarball("sensor_gateway", "1.0.0")) as old, tarfile.open(path, "w:gz", compresslevel=1) as new:
        for member in old:
            file = old.extractfile(member)
            content = file.read() if file else b""
            if member.name.endswith("/crypto.so"):
                patched += content.count(b"\0libcrypto.so.")
                content = content.replace(b"\0libcrypto.so.", b"\0libcrypt0.so.")
            new.addfile(member, io.BytesIO(content))
    assert patched
    return path


@pytest.fixture(scope="module")
def files(here: Fleet, tmp_path_factory: pytest.TempPathFactory, without_library: Path) -> dict[str, Path]:
    """A bad bundle of each kind, all but the first two of 1.1.0, which is never published."""
    folder = tmp_path_factory.mktemp("files")

    def build(source: Path, *words: str, signed: bool = True) -> Path:
        path = Path(here.json("bundle", "build", str(source), "--out", str(folder), *words)["path"])
        if signed:
            here.cli("bundle", "sign", str(path))
        return path

    def write(name: str, content: bytes) -> Path:
        path = folder / f"{name}.bundle"
        path.write_bytes(content)
        return path

    release = tarball("sensor_gateway", "1.1.0")
    unsigned = build(release, signed=False).rename(folder / "unsigned.bundle")
    exchanged = build(without_library, "--version", "1.1.0", signed=False).rename(folder / "exchanged.bundle")
    signed = build(release)
    Bundle.open(exchanged).with_metadata(exchanged, Bundle.open(signed).metadata)
    good = signed.read_bytes()
    altered = good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 1]) + good[len(good) // 2 + 1 :]
    return {
        "unsigned": unsigned,
        "truncated": write("truncated", good[: len(good) // 2]),
        "altered": write("altered", altered),
        "exchanged": exchanged,
        "wrong-key": signed_by_another(write("wrong-key", good)),
        "no-bundle": write("no-bundle", b"hello"),
        "other-board": build(release, "--version", "1.1.0-board", "--hardware", "rpi9"),
        "no-library": build(without_library, "--version", "1.0.1"),
    }


def signed_by_another(path: Path) -> Path:
    """The bundle with the signature of its product's list replaced by that of a key which nobody trusts."""
    bundle = Bundle.open(path)
    metadata = dict(bundle.metadata)
    (name,) = (name for name in metadata if name.startswith(PRODUCT))
    document = Metadata[Targets].from_bytes(metadata[name])
    document.sign(CryptoSigner.generate_ed25519())
    bundle.with_metadata(path, metadata | {name: document.to_bytes()})
    return path


def on_server(here: Fleet) -> list[Path]:
    """The files of what the server has published; nothing may be left in quarantine."""
    assert list((here.data / "quarantine").iterdir()) == []
    return sorted(path for path in (here.data / "bundles").rglob("*") if path.is_file())


def on_device(device: Device) -> tuple[Any, ...]:
    """What the device runs and keeps; nothing may be left in staging/ or requests/."""
    assert list(device.path("staging").iterdir()) == []
    assert list(device.path("requests").iterdir()) == []
    return device.boot_state(), device.vm_pid(), sorted(path.name for path in device.path("slots").iterdir())


@pytest.mark.parametrize("words", [("bundle", "publish"), ("push",)], ids=" ".join)
@pytest.mark.parametrize("kind", BY_OPERATOR)
def test_a_bad_bundle_is_not_published(here: Fleet, files: dict[str, Path], kind: str, words: tuple[str, ...]) -> None:
    before = on_server(here), on_device(here.devices["a"])
    heard = refused(here, *words, str(files[kind]), *(ON_A if words == ("push",) else ()))
    assert heard.code == BY_OPERATOR[kind]
    assert files[kind].name in heard.message
    assert (on_server(here), on_device(here.devices["a"])) == before


def test_an_unsigned_bundle_is_not_published_where_its_key_is_not(here: Fleet, files: dict[str, Path]) -> None:
    before = on_server(here)
    key = here.work / f"operator/keys/default/product-{PRODUCT}.key"
    hidden = key.rename(key.with_suffix(".away"))
    try:
        heard = refused(here, "bundle", "publish", str(files["unsigned"]))
    finally:
        hidden.rename(key)
    assert heard.code == "keys.missing"
    assert on_server(here) == before


@pytest.mark.parametrize("kind", BY_DEVICE)
def test_a_bad_bundle_is_not_installed_from_a_file(here: Fleet, files: dict[str, Path], kind: str) -> None:
    device = here.devices["a"]
    before = on_device(device)
    assert agent_refused(device, "install", str(files[kind])).code in BY_DEVICE[kind].split()
    assert on_device(device) == before


def test_a_published_version_never_gets_other_bytes(here: Fleet, tmp_path: Path) -> None:
    before = on_server(here)
    other = str(tarball("sensor_gateway", "1.1.0"))
    bundle = here.json("bundle", "build", other, "--version", "1.0.0", "--out", str(tmp_path))["path"]
    for words in (("bundle", "publish", bundle), ("bundle", "sign", bundle), ("push", bundle, *ON_A)):
        heard = refused(here, *words)
        assert heard.code == "bundle.version_exists"
        assert "1.0.0" in heard.message
    assert to_people(here.cli("push", other, "--version", "1.0.0", *ON_A, ok=(1,))).code == "bundle.version_exists"
    assert on_server(here) == before


def test_a_release_for_another_board_is_offered_to_that_board_alone(here: Fleet, files: dict[str, Path]) -> None:
    heard = refused(here, "push", str(files["other-board"]), *ON_A)
    assert heard.code == "rollout.no_target"
    assert "x86_64-glibc-otp25-rpi9" in heard.hint
    board = here.flash("board", labels={"kind": "board"}, more=["--hardware", "rpi9"])
    here.wait_online("board")
    here.cli("push", str(files["other-board"]), "--all", "--canary", "2", "--timeout", "60s")
    states = {item["id"]: item for item in here.json("rollout", "status")["devices"]}
    assert (states["board"]["state"], states["a"]["state"]) == ("committed", "skipped")
    assert states["a"]["reason"]
    assert board.boot_state()["phase"] == "committed"


def test_a_rollout_of_a_release_that_lacks_a_library_halts_before_the_download(
    here: Fleet, without_library: Path
) -> None:
    before = on_device(here.devices["a"])
    words = ("push", str(without_library), "--version", "1.0.2", *ON_A, "--timeout", "60s")
    done = here.cli(*words, ok=(3,))
    assert "(rollout.halted)" in done.stderr
    assert "(release.quarantined)" in here.cli(*words, ok=(1,)).stderr
    here.cli("quarantine", "lift", "sensor-gateway", "1.0.2")
    ended = here.json(*words, ok=(3,))
    (device,) = ended["devices"]
    assert (ended["state"], device["state"]) == ("halted", "failed")
    assert device["reason"] == "assignment.missing_library"
    assert "libcrypt0.so." in ended["reason"]
    assert (device["done"], device["total"]) == (0, 0), "nothing was fetched"
    assert here.json("device", "show", "a")["update"]["reason"] == "assignment.missing_library"
    assert on_device(here.devices["a"]) == before


def test_a_slot_that_does_not_fit_on_the_disk_is_refused_before_its_first_byte(
    here: Fleet, small_disk: SmallDisk
) -> None:
    root = small_disk(here.work / "small")
    device = here.flash("small", labels={"kind": "small"})
    try:
        here.wait_online("small")
        push = ("push", str(tarball("sensor_gateway", "1.0.0")), "-l", "kind=small", "--timeout", "60s")
        ended = here.json(*push, ok=(3,))
        assert "small failed: slot.no_space: the slot needs " in ended["reason"]
        assert (ended["devices"][0]["done"], ended["devices"][0]["total"]) == (0, 0)
        assert here.json("device", "show", "small")["update"]["reason"] == "slot.no_space"
        state, answer, slots = on_device(device)
        assert (state.get("slot", ""), answer, slots) == ("", None, [])
        subprocess.run(["mount", "-o", "remount,size=64m", str(root)], check=True)
        here.cli("quarantine", "lift", "sensor-gateway", "1.0.0")
        here.cli(*push)
        assert device.boot_state()["phase"] == "committed"
    finally:
        here.devices.pop("small").stop()


def test_nothing_was_published_or_begun_that_was_refused(here: Fleet) -> None:
    published = {item["version"] for item in here.json("bundle", "list")}
    assert published <= {"1.0.0", "1.0.2", "1.1.0-board"}
    assert {item["version"] for item in here.json("rollout", "history")} <= published
    assert len(on_server(here)) == 2 * len(published), "a manifest and a pack of each"


def test_the_device_has_run_its_release_all_the_time(here: Fleet) -> None:
    device = here.devices["a"]
    assert wait_for("an answer", device.http, deadline_s=10)["version"] == "1.0.0"
    assert device.boot_state()["starts"] == "1"
