"""What devices fetch over HTTPS, by certificate."""

import json
import sqlite3
from pathlib import Path

import pytest
import requests
from beamfleet_bundles import assignment
from beamfleet_bundles.bundle import Bundle
from beamfleet_bundles.chain import parse_targets
from beamfleet_bundles.errors import BundleError

from tests.server.conftest import PRODUCT, Centre
from tests.support.author import now
from tests.support.server import Identity


def code(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_a_pack_is_served_whole_in_parts_and_with_a_name_that_never_changes(centre: Centre, tmp_path: Path) -> None:
    path = centre.author.sign(centre.author.build(PRODUCT, "7.0.0"))
    manifest = centre.author.upload(path).json()["manifest"]
    with Bundle.open(path).open_pack() as file:
        pack = file.read()
    identity = centre.server.enrol("pack-1", tmp_path)
    whole = centre.server.fetch(identity, f"/packs/{manifest}/full")
    assert whole.content == pack
    tag = whole.headers["etag"]
    rest = centre.server.fetch(identity, f"/packs/{manifest}/full", headers={"Range": "bytes=100-", "If-Range": tag})
    assert (rest.status_code, rest.content) == (206, pack[100:])
    assert rest.headers["content-range"] == f"bytes 100-{len(pack) - 1}/{len(pack)}"
    assert rest.headers["etag"] == tag
    other = centre.server.fetch(identity, f"/packs/{manifest}/full", headers={"Range": "bytes=100-", "If-Range": '"x"'})
    assert (other.status_code, other.content) == (200, pack)
    beyond = centre.server.fetch(identity, f"/packs/{manifest}/full", headers={"Range": f"bytes={len(pack)}-"})
    assert beyond.status_code == 416


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/metadata/99.targets.json", (404, "metadata.none")),
        ("/metadata/targets.json", (404, "metadata.none")),
        ("/metadata/1.timestamp.json", (404, "metadata.none")),
        ("/metadata/x.root.json", (404, "metadata.none")),
        ("/metadata/1.root.txt", (404, "metadata.none")),
        ("/metadata/..%2f..%2fadmin.token", (404, "request.not_found")),
        ("/targets/a/b/c/d.manifest", (404, "bundle.unknown")),
        (f"/packs/{'0' * 64}/full", (404, "bundle.unknown")),
        ("/packs/..%2f..%2fkeys/full", (404, "request.not_found")),
        ("/packs/x/full", (422, "request.schema")),
        ("/assignment?nonce=x", (422, "request.schema")),
        ("/assignment?app=Main", (422, "request.schema")),
        ("/api/v1/devices", (404, "request.not_found")),
        ("/", (404, "request.not_found")),
    ],
)
def test_what_is_not_there_gets_its_code(
    centre: Centre, tmp_path_factory: pytest.TempPathFactory, path: str, expected: tuple[int, str]
) -> None:
    folder = centre.work / "curious"
    identity = Identity("curious-1", folder / "curious-1.key", folder / "curious-1.pem")
    if not identity.certificate.exists():
        identity = centre.server.enrol("curious-1", folder)
    assert code(centre.server.fetch(identity, path)) == expected


def test_metadata_is_served_by_version_and_the_timestamp_without_one(centre: Centre, tmp_path: Path) -> None:
    identity = centre.server.enrol("metadata-1", tmp_path)
    timestamp = json.loads(centre.server.fetch(identity, "/metadata/timestamp.json").content)["signed"]
    snapshot = timestamp["meta"]["snapshot.json"]["version"]
    listed = json.loads(centre.server.fetch(identity, f"/metadata/{snapshot}.snapshot.json").content)["signed"]["meta"]
    for name, facts in listed.items():
        assert centre.server.fetch(identity, f"/metadata/{facts['version']}.{name}").status_code == 200
    assert centre.server.fetch(identity, "/metadata/1.root.json").status_code == 200
    assert centre.server.fetch(identity, "/metadata/timestamp.json").headers["cache-control"] == "no-store"


def test_a_replaced_device_is_turned_away_on_its_next_request(centre: Centre, tmp_path: Path) -> None:
    old = centre.server.enrol("stolen-1", tmp_path / "old")
    assert centre.server.fetch(old, "/assignment").status_code == 204
    new = centre.server.enrol("stolen-1", tmp_path / "new", replace=True)
    assert code(centre.server.fetch(old, "/assignment")) == (403, "certificate.unknown")
    assert centre.server.fetch(new, "/assignment").status_code == 204


def test_an_assignment_is_pulled_and_answers_the_nonce(centre: Centre, tmp_path: Path) -> None:
    published = centre.author.publish(PRODUCT, "7.1.0")
    device = centre.device("pull-1", labels={"bench": "pull"})
    device.acknowledged(device.report())
    centre.server.post("/rollouts", {"product": PRODUCT, "version": "7.1.0", "selector": "bench=pull"})
    pushed = device.wait_for_offer()
    folder = centre.work
    identity = Identity("pull-1", folder / "pull-1.key", folder / "pull-1.pem")
    plain = centre.server.fetch(identity, "/assignment?app=main")
    assert json.loads(plain.content)["signed"] == pushed
    tag = {"If-None-Match": plain.headers["etag"]}
    same = centre.server.fetch(identity, "/assignment?app=main", headers=tag)
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", plain.headers["etag"])
    other = centre.server.fetch(identity, "/assignment?app=main", headers={"If-None-Match": '"x"'})
    assert other.content == plain.content
    nonce = "ab" * 16
    answered = centre.server.fetch(identity, f"/assignment?app=main&nonce={nonce}")
    targets = parse_targets(centre.author.held("targets"), "targets").signed
    last = pushed["version"]
    facts = {"device": "pull-1", "app": "main", "last": last, "now": now()}
    accepted = assignment.verify(answered.content, targets, nonce=nonce, **facts)
    assert (accepted.sequence, accepted.sha256) == (last, published["manifest"])
    with pytest.raises(BundleError, match="nonce"):
        assignment.verify(plain.content, targets, nonce=nonce, **facts)
    assert centre.server.fetch(identity, "/assignment?app=other").status_code == 204
    device.close()


def test_an_old_assignment_is_signed_again_for_a_device_that_only_asks_over_https(centre: Centre) -> None:
    centre.author.publish(PRODUCT, "7.2.0")
    device = centre.device("poll-1", labels={"bench": "poll"})
    device.acknowledged(device.report())
    centre.server.post("/rollouts", {"product": PRODUCT, "version": "7.2.0", "selector": "bench=poll"})
    pushed = device.wait_for_offer()
    device.close()
    entries = len(centre.server.get("/audit?limit=1000")["items"])
    database = sqlite3.connect(centre.server.data / "beamfleet.db", timeout=30)
    mine = "device_id = (select id from devices where name = 'poll-1')"
    database.execute(f"update assignments set created = created - 16 * 86400 where {mine}")  # noqa: S608 (a constant)
    database.commit()
    database.close()
    identity = Identity("poll-1", centre.work / "poll-1.key", centre.work / "poll-1.pem")
    renewed = json.loads(centre.server.fetch(identity, "/assignment").content)["signed"]
    assert renewed["version"] > pushed["version"]
    assert (renewed["beamfleet"]["attempt"], renewed["targets"]) == (pushed["beamfleet"]["attempt"], pushed["targets"])
    assert len(centre.server.get("/audit?limit=1000")["items"]) == entries, "nobody did that"
