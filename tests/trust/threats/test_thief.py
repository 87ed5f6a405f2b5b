"""A thief with all that a server holds: every online key, the fleet's authority, the certificate of the server.

He stands where the server stood and signs what he can. He chooses among what the products have signed, and no more;
once the owners have changed the root, his keys are worth nothing on any device, and nobody had to go there."""

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from beamfleet_bundles import assignment, keys, repository
from beamfleet_bundles.bundle import Bundle
from beamfleet_bundles.names import target_path
from beamfleet_bundles.repository import RoleKeys
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Targets

from tests.support.ceremony import PASSPHRASE, Ceremony, production_fleet
from tests.support.fleet import Device, Fleet, wait_for
from tests.support.interception import always, redirect
from tests.support.thief import Published, Thief, version_of
from tests.trust.threats.captive import PRODUCT, Captive, built, captured, running_device, start_rollout

pytestmark = [pytest.mark.suite(name="trust"), pytest.mark.timeout(600)]

OTHER = "edge-hub"
HIGHEST = assignment.MAX_SEQUENCE


@dataclass(frozen=True, slots=True)
class Robbed:
    """A fleet of which everything online was stolen; `captive` hears the thief, `second` still its server."""

    here: Fleet
    ceremony: Ceremony
    thief: Thief
    captive: Captive
    second: Device
    own: Published
    """What the thief has built himself, and its bundle."""
    bundle: Bundle
    attempts: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def assigned(self, release: Published | None, captive: Captive | None = None, **words: Any) -> bytes:
        """What the thief's director says to a device, each time as a new attempt."""
        name = (captive or self.captive).device.name
        return self.thief.assign(name, release, attempt=next(self.attempts), **words)

    def refuses(self, code: str, release: Published | None, captive: Captive | None = None, **words: Any) -> None:
        """A device refuses this release for this reason and goes on with what it has."""
        to = captive or self.captive
        to.refuses(code, lambda: to.push(self.assigned(release, to, **words)))

    def key(self, name: str) -> CryptoSigner:
        """The key of a person or a product, opened: what he has found besides."""
        return keys.load(self.ceremony.key(name), lambda _: PASSPHRASE)

    def listed(self, signer: CryptoSigner) -> bytes:
        """The next list of the product, with his own release in it, signed by this key."""
        return repository.add_release(self.thief.documents[PRODUCT], self.bundle.manifest, [signer], now())[0]


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def runs(device: Device, release: Published) -> None:
    """Until the device has committed this very release and it answers."""

    def committed() -> bool:
        state = device.boot_state()
        return (state.get("phase"), state.get("slot")) == ("committed", release.sha256[:32]) and bool(device.http())

    wait_for(f"{device.name} to run {release.version}", committed, deadline_s=60)


def accepted(device: Device) -> int:
    """The sequence of the assignment that the device has accepted last; 0 for none."""
    journal = json.loads((device.root / "var/lib/beamfleet/journal").read_bytes())["content"]
    return int(json.loads(journal["accepted"])["signed"]["version"]) if journal["accepted"] else 0


@pytest.fixture(scope="module")
def robbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robbed]:
    """Two devices run 1.1.0, which has withdrawn 1.0.0; 1.1.1 is for another board."""
    work = tmp_path_factory.mktemp("robbed")
    with production_fleet(work, PRODUCT, OTHER) as (here, ceremony):
        here.cli("bundle", "publish", built(here, "1.0.0"))
        here.cli("bundle", "publish", built(here, "1.1.0"), "--withdraw-older")
        here.cli("bundle", "publish", built(here, "1.1.1", "--hardware", "rpi9"))
        here.cli("bundle", "publish", built(here, "1.3.0"))
        first, second = (running_device(here, name, "1.1.0") for name in ("robbed-1", "robbed-2"))
        thief = Thief(here.data, work / "thief")
        bundle = Bundle.open(Path(built(here, "6.6.6")))
        manifest = bundle.manifest
        path = target_path(manifest.product, manifest.version, manifest.target)
        own = Published(path, len(bundle.manifest_bytes), manifest.sha256, manifest.version)
        with captured(here, first, work / "front") as captive:
            yield Robbed(here, ceremony, thief, captive, second, own, bundle)


def test_among_signed_releases_he_may_choose(robbed: Robbed) -> None:
    """What is refused below is not refused because nothing of his would be heard."""
    robbed.captive.push(robbed.assigned(robbed.thief.release(PRODUCT, "1.3.0")))
    runs(robbed.captive.device, robbed.thief.release(PRODUCT, "1.3.0"))


def test_code_that_no_product_has_signed_is_refused(robbed: Robbed) -> None:
    robbed.refuses("trust.unknown_target", robbed.own)


def test_a_name_that_is_signed_does_not_bring_other_code_in(robbed: Robbed) -> None:
    robbed.refuses("assignment.mismatch", replace(robbed.own, path=robbed.thief.release(PRODUCT, "1.1.0").path))


def test_what_was_withdrawn_stays_withdrawn(robbed: Robbed) -> None:
    robbed.refuses("assignment.below_floor", robbed.thief.release(PRODUCT, "1.0.0"))
    robbed.thief.publish(robbed.captive.front, {})
    robbed.refuses("assignment.below_floor", robbed.thief.release(PRODUCT, "1.0.0"))


def test_what_was_built_for_another_board_is_not_installed(robbed: Robbed) -> None:
    robbed.refuses("assignment.wrong_hardware", robbed.thief.release(PRODUCT, "1.1.1"))


def test_the_highest_sequence_there_is_is_taken_and_is_the_last_that_he_says(robbed: Robbed) -> None:
    """Nothing lower is heard from these keys; `TestWithoutAVisit` shows that it locks no owner out."""
    device = robbed.captive.device
    robbed.captive.push(robbed.assigned(None, sequence=HIGHEST))
    wait_for("it to be accepted", lambda: accepted(device) == HIGHEST, deadline_s=30)
    robbed.refuses("assignment.replayed", robbed.thief.release(PRODUCT, "1.1.0"))


SIGNERS: dict[str, Callable[[Robbed], CryptoSigner]] = {
    "a key of his own": lambda _: CryptoSigner.generate_ed25519(),
    "the director's": lambda robbed: robbed.thief.signers["director"],
    "the snapshot's": lambda robbed: robbed.thief.signers["snapshot"],
    "one person's": lambda robbed: robbed.key("anna"),
    "another product's": lambda robbed: robbed.key(f"{OTHER}-1"),
}


@pytest.mark.parametrize("whose", SIGNERS)
def test_a_list_of_releases_is_signed_by_its_product_or_refused(robbed: Robbed, whose: str) -> None:
    robbed.thief.publish(robbed.captive.front, {PRODUCT: robbed.listed(SIGNERS[whose](robbed))})
    robbed.refuses("trust.signature", robbed.own, sequence=HIGHEST)


@pytest.mark.parametrize("people", [(), ("anna",)], ids=["nobody", "one of three"])
def test_a_product_of_his_own_takes_two_people(robbed: Robbed, people: tuple[str, ...]) -> None:
    key = CryptoSigner.generate_ed25519()
    signers = [*map(robbed.key, people), key, *robbed.thief.signers.values()]
    targets = robbed.thief.documents["targets"]
    name = f"thieves-{len(people)}"
    changed = repository.add_product(targets, name, RoleKeys((key.public_key,)), signers, now())
    robbed.thief.publish(robbed.captive.front, {"targets": changed})
    robbed.refuses("trust.signature", robbed.own, sequence=HIGHEST)


@pytest.mark.parametrize("people", [(), ("anna",)], ids=["nobody", "one of three"])
def test_a_root_of_his_own_takes_two_people(robbed: Robbed, people: tuple[str, ...]) -> None:
    document = Metadata[Root].from_bytes(robbed.thief.documents["root"])
    key = CryptoSigner.generate_ed25519()
    document.signed.version += 1
    for role in ("root", Targets.type):
        document.signed.add_key(key.public_key, role)
        document.signed.roles[role].threshold = 1
    document.signatures.clear()
    for signer in (key, *robbed.thief.signers.values(), *map(robbed.key, people)):
        document.sign(signer, append=True)
    root = document.to_bytes()
    robbed.captive.front.answers[f"/metadata/{version_of(root)}.root.json"] = always(root)
    robbed.refuses("trust.signature", robbed.own, sequence=HIGHEST)
    del robbed.captive.front.answers[f"/metadata/{version_of(root)}.root.json"]


@pytest.fixture(scope="module")
def captives(robbed: Robbed) -> Iterator[list[Captive]]:
    """Both devices, when the root is another; the thief may say to them what he wants."""
    robbed.captive.front.answers.clear()
    robbed.ceremony.rotate_online()
    with captured(robbed.here, robbed.second, robbed.here.work / "second") as second:
        yield [robbed.captive, second]


class TestWithoutAVisit:
    """The owners have made new online keys, named by a root and targets that two of three have signed."""

    @pytest.fixture(autouse=True)
    def honest_again(self, captives: list[Captive]) -> Iterator[None]:
        yield
        for captive in captives:
            captive.front.answers.clear()

    @pytest.mark.parametrize("version", ["1.3.0", "1.1.0", "1.0.0", None])
    def test_his_director_is_not_heard(self, robbed: Robbed, captives: list[Captive], version: str | None) -> None:
        release = None if version is None else robbed.thief.release(PRODUCT, version)
        for captive in captives:
            robbed.refuses("assignment.signature", release, captive)
            robbed.refuses("assignment.signature", release, captive, sequence=HIGHEST)

    def test_his_metadata_is_refused(self, robbed: Robbed, captives: list[Captive]) -> None:
        for captive in captives:
            robbed.thief.publish(captive.front, {})
            robbed.refuses("trust.signature", robbed.thief.release(PRODUCT, "1.1.0"), captive)

    def test_a_product_key_without_the_online_keys_brings_nothing_in(
        self, robbed: Robbed, captives: list[Captive]
    ) -> None:
        listed = robbed.listed(robbed.key(f"{PRODUCT}-1"))
        for captive in captives:
            robbed.thief.publish(captive.front, {PRODUCT: listed})
            robbed.refuses("trust.signature", robbed.own, captive)

    def test_the_honest_server_is_obeyed(self, robbed: Robbed, captives: list[Captive]) -> None:
        """Also by the device that has heard the highest sequence there is."""
        for captive, version in zip(captives, ("1.1.0", "1.3.0"), strict=True):
            redirect(captive.device, api=robbed.here.address("devices"), mqtt=robbed.here.address("mqtt"))
            robbed.here.wait_online(captive.device.name)
            start_rollout(robbed.here, captive.device.name, version)
            runs(captive.device, robbed.thief.release(PRODUCT, version))
