"""The ceremony on the command line: keys, plans, signatures, publication, against the real server."""

import base64
import json
import shutil
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests
from beamfleet_bundles import chain, keys
from beamfleet_bundles.bundle import Bundle
from beamfleet_bundles.trust import Updater
from beamfleet_server.cli.signers import PASSPHRASE_VARIABLE
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from tests.server.cli.house import PEOPLE, Capture, House, code_of
from tests.server.cli.terminal import Ended, Operator, child
from tests.server.cli.test_signing import build
from tests.support.fleet import Fleet

PASSPHRASE = "nobody guesses these words"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Root and targets by two of anna, ben and carl; the product my-app by dora or emil."""
    house = House(tmp_path_factory.mktemp("house"))
    house.fleet.serve()
    house.operator.log_in(house.fleet)
    first, product = house.work / "first.json", house.work / "product.json"

    def do(*words: str) -> None:
        ended = house.operator.child("keys", *words)
        assert ended.code == 0, ended.err

    do("plan", "init", *house.pubs("--root", *PEOPLE), "--out", str(first))
    for name in PEOPLE[:2]:
        do("sign", str(first), "--key", str(house.key(name)), "--yes")
    do("publish", str(first))
    do("plan", "product", "my-app", *house.pubs("--key", "dora", "emil"), "--out", str(product))
    for name in ("ben", "carl", "dora"):
        do("sign", str(product), "--key", str(house.key(name)), "--yes")
    do("publish", str(product))
    yield house
    house.fleet.close()


# -- keys


def test_a_key_is_made_encrypted_for_its_owner_with_a_public_half_beside_it(
    operator: Operator, capsys: Capture, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(PASSPHRASE + "\n")
    words = ["keys", "create", "anna", "--out", str(tmp_path / "a.key"), "--passphrase-file", str(tmp_path / "secret")]
    made = operator.run(*words, "-o", "json", capsys=capsys)
    assert (made.code, made.json["name"], made.json["encrypted"]) == (0, "anna", True)
    assert stat.S_IMODE((tmp_path / "a.key").stat().st_mode) == 0o600
    opened = keys.load(tmp_path / "a.key", lambda _: PASSPHRASE)
    public = keys.read_public(tmp_path / "a.key.pub")
    assert (public.keyid, keys.name_of(public)) == (opened.public_key.keyid, "anna")
    again = operator.run(*words, capsys=capsys)
    assert (again.code, code_of(again)) == (1, "keys.exists")
    assert keys.load(tmp_path / "a.key", lambda _: PASSPHRASE).public_key == opened.public_key


def test_a_passphrase_comes_from_the_environment_too(operator: Operator, tmp_path: Path) -> None:
    made = child("keys", "create", "a", "--out", str(tmp_path / "a"), environment={PASSPHRASE_VARIABLE: PASSPHRASE})
    assert made.code == 0
    keys.load(tmp_path / "a", lambda _: PASSPHRASE)


def test_without_a_passphrase_and_a_terminal_no_key_is_made(operator: Operator, tmp_path: Path) -> None:
    refused = operator.child("keys", "create", "a", "--out", str(tmp_path / "a"))
    assert (refused.code, code_of(refused)) == (1, "passphrase.missing")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 65, "\u202eanna"])
def test_a_name_that_is_none_makes_no_key(name: str, operator: Operator, capsys: Capture, tmp_path: Path) -> None:
    refused = operator.run("keys", "create", name, "--out", str(tmp_path / "k"), "--no-passphrase", capsys=capsys)
    assert (refused.code, code_of(refused)) == (1, "trust.key_unreadable")
    assert list(tmp_path.iterdir()) == []


def test_the_public_half_of_a_key_made_elsewhere_gets_a_name(
    operator: Operator, capsys: Capture, tmp_path: Path
) -> None:
    made = CryptoSigner.generate_ecdsa()
    (tmp_path / "token.pem").write_text(made.public_key.keyval["public"])
    words = ["keys", "import", "anna", str(tmp_path / "token.pem"), "--out", str(tmp_path / "anna.pub")]
    assert operator.run(*words, capsys=capsys).code == 0
    assert keys.name_of(keys.read_public(tmp_path / "anna.pub")) == "anna"
    assert code_of(operator.run(*words, capsys=capsys)) == "keys.exists"


# -- plans


def test_signing_and_showing_need_no_server_and_no_context(
    house: House, operator: Operator, capsys: Capture, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    shutil.copy(house.plan(capsys, "renew", "root"), plan)
    signed = operator.run("keys", "sign", str(plan), "--key", str(house.key("anna")), "--yes", capsys=capsys)
    assert signed.code == 0
    assert "root needs 1 more signature by root" in signed.err
    shown = operator.run("keys", "show", str(plan), "-o", "json", capsys=capsys).json
    assert [key["name"] for key in shown["signatures"][0]["signed"]] == ["anna"]
    assert not (operator.directory / "config.toml").exists()


def test_nobody_signs_what_was_not_agreed_to(house: House, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = house.plan(capsys, "renew", "targets")
    before = plan.read_bytes()
    words = ["keys", "sign", str(plan), "--key", str(house.key("anna"))]
    alone = house.operator.child(*words, stdin="y\n")
    assert (alone.code, code_of(alone), "--yes" in alone.err) == (2, "usage.not_asked", True)
    said, told = house.operator.answer(*words, answer="n", monkeypatch=monkeypatch)
    assert (said, "(plan.declined)" in told, "targets" in told) == (1, True, True)
    assert plan.read_bytes() == before
    assert house.operator.answer(*words, answer="y", monkeypatch=monkeypatch)[0] == 0
    assert plan.read_bytes() != before


def test_below_the_threshold_nothing_is_published_and_those_missing_are_named(house: House, capsys: Capture) -> None:
    plan = house.plan(capsys, "renew", "targets")
    house.sign(capsys, plan, "anna", "anna")
    before = house.served("targets")
    refused = house.publish(capsys, plan)
    assert (refused.code, refused.json["code"]) == (1, "plan.unsigned")
    assert "ben" in refused.json["detail"]
    assert "carl" in refused.json["detail"]
    assert house.served("targets") == before


def test_copies_that_were_signed_apart_are_published_together_and_once(
    house: House, capsys: Capture, tmp_path: Path
) -> None:
    plan = house.plan(capsys, "renew", "targets")
    copies = [Path(shutil.copy(plan, tmp_path / name)) for name in ("a.json", "b.json")]
    house.sign(capsys, copies[0], "anna")
    house.sign(capsys, copies[1], "carl")
    first, again = house.publish(capsys, *copies), house.publish(capsys, *copies)
    assert (first.code, first.json["published"], again.code, again.json["published"]) == (0, True, 0, False)


def test_a_plan_that_somebody_was_faster_than_is_refused_whole(house: House, capsys: Capture) -> None:
    slow, fast = house.plan(capsys, "renew", "targets"), house.plan(capsys, "rotate", "my-app", "--threshold", "1",
                                                                     *house.pubs("--add", "fred"))  # fmt: skip
    house.sign(capsys, slow, "anna", "ben")
    house.sign(capsys, fast, "anna", "ben", "dora")
    assert house.publish(capsys, fast).code == 0
    refused = house.publish(capsys, slow)
    assert (refused.code, refused.json["code"]) == (1, "metadata.conflict")


def test_one_signature_alone_is_refused_by_the_server_too(house: House) -> None:
    held: Metadata[Root] = Metadata.from_bytes(house.served("root"))
    held.signed.version += 1
    held.signatures.clear()
    held.sign(keys.load(house.key("anna")))
    body = {"root": base64.b64encode(held.to_bytes()).decode()}
    answer = house.post("/metadata", body)
    assert (answer.status_code, answer.json()["code"]) == (422, "trust.signature")


def test_one_key_under_two_ids_is_refused_by_the_server(house: House) -> None:
    held: Metadata[Root] = Metadata.from_bytes(house.served("root"))
    anna = keys.read_public(house.pub("anna"))
    held.signed.version += 1
    held.signed.keys["f" * 64] = held.signed.keys[anna.keyid]
    held.signed.roles["root"].keyids.append("f" * 64)
    held.signatures.clear()
    for name in PEOPLE[:2]:
        held.sign(keys.load(house.key(name)), append=True)
    answer = house.post("/metadata", {"root": base64.b64encode(held.to_bytes()).decode()})
    assert (answer.status_code, answer.json()["code"]) == (422, "trust.key_unreadable")


def test_a_lost_key_is_revoked_in_every_role_and_replaced(house: House, capsys: Capture) -> None:
    house.carry_out(capsys, "rotate", "targets", *house.pubs("--add", "gina"), people=("anna", "ben"))
    house.carry_out(capsys, "revoke", "gina", *house.pubs("--add", "hugo"), people=("anna", "carl"))
    named = house.served("root").decode()
    assert ("gina" in named, "hugo" in named) == (False, True)
    house.carry_out(capsys, "revoke", "hugo", people=("ben", "carl"))
    refused = house.run(capsys, "keys", "plan", "revoke", "gina", "--out", str(house.work / "none"))
    assert (refused.code, code_of(refused)) == (1, "plan.key")
    assert not (house.work / "none").exists()


def test_where_the_server_is_can_be_told_and_taken_back(house: House, capsys: Capture) -> None:
    house.carry_out(capsys, "whereabouts")
    told = json.loads(house.served("targets"))["signed"]["beamfleet"]
    assert told["servers"][0]["enrol"].startswith("https://")
    assert told["authorities"][0].startswith("-----BEGIN CERTIFICATE-----")
    place = "https://a.example:1,https://a.example:2,a.example:3"
    house.carry_out(capsys, "whereabouts", "--server", place)
    assert json.loads(house.served("targets"))["signed"]["beamfleet"]["servers"][0]["api"] == "https://a.example:1"
    house.carry_out(capsys, "whereabouts", "--none")
    assert "beamfleet" not in json.loads(house.served("targets"))["signed"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["rotate", "nobody"], "plan.role"),
        (["rotate", "snapshot"], "plan.role"),
        (["rotate", "root"], "plan.nothing"),
        (["rotate", "root", "--remove", "anna", "--remove", "ben"], "plan.threshold"),
        (["rotate", "root", "--remove", "zoe"], "plan.key"),
        (["rotate", "root", "--add", "/nonexistent.pub"], "trust.key_missing"),
        (["revoke", "zoe"], "plan.key"),
        (["renew"], "plan.nothing"),
        (["renew", "snapshot"], "plan.role"),
        (["online"], "plan.nothing"),
        (["product", "my-app", "--key", "{dora}"], "plan.role"),
        (["product", "Not A Name", "--key", "{dora}"], "name.product"),
        (["product", "new", "--key", "{dora}", "--key", "{dora}"], "plan.key"),
        (["product", "new", "--key", "{dora}", "--threshold", "2"], "plan.threshold"),
        (["whereabouts", "--server", "https://a:1"], "usage.server"),
        (["whereabouts", "--server", "http://a:1,https://a:2,a:3"], "whereabouts.schema"),
    ],
)
def test_what_cannot_be_planned_has_its_code_and_leaves_no_file(
    words: list[str], code: str, house: House, capsys: Capture, tmp_path: Path
) -> None:
    house.key("dora")
    given = [word.format(dora=house.pub("dora")) for word in words]
    refused = house.run(capsys, "keys", "plan", *given, "--out", str(tmp_path / "plan"))
    assert code_of(refused) == code
    assert refused.code == (2 if code.startswith("usage.") else 1)
    assert list(tmp_path.iterdir()) == []


def test_nobody_named_nobody_signs(house: House, capsys: Capture) -> None:
    plan = house.plan(capsys, "renew", "root")
    assert house.run(capsys, "keys", "sign", str(plan), "--yes").code == 2
    stranger = house.run(capsys, "keys", "sign", str(plan), "--key", str(house.key("stranger")), "--yes")
    assert code_of(stranger) == "plan.not_wanted"


def test_the_status_tells_whose_keys_how_many_and_how_long(house: House, capsys: Capture) -> None:
    rows = {row["role"]: row for row in house.run(capsys, "keys", "status", "-o", "json").json}
    assert {key["name"] for key in rows["root"]["keys"]} == set(PEOPLE)
    assert (rows["root"]["threshold"], rows["root"]["state"]) == (2, "ok")
    assert {"targets", "my-app", "snapshot", "timestamp", "director", "server certificate"} <= rows.keys()
    assert not {"product my-app"} & rows.keys()
    assert "nothing to do" in house.run(capsys, "keys", "status").err


# -- releases


def test_a_release_by_two_people_is_not_published_with_one_signature(
    house: House, capsys: Capture, tmp_path: Path
) -> None:
    house.carry_out(capsys, "product", "safety", *house.pubs("--key", "ina", "jon", "kai"), "--threshold", "2",
                    people=("anna", "ben", "ina", "jon"))  # fmt: skip
    bundle = release_of(house, capsys, tmp_path / "r", "1.0.0", "safety")

    def sign(name: str) -> Ended:
        return house.run(capsys, "bundle", "sign", str(bundle), "--key", str(house.key(name)), "-o", "json")

    assert code_of(house.run(capsys, "bundle", "publish", str(bundle))) == "keys.missing"
    assert sign("dora").json["code"] == "keys.missing"
    assert [sign("ina").json["missing"], sign("ina").json["missing"]] == [1, 1]
    refused = house.run(capsys, "bundle", "publish", str(bundle), "-o", "json")
    assert (refused.json["code"], "jon" in refused.json["detail"]) == ("release.unsigned", True)
    assert house.get("/bundles?product=safety").json()["items"] == []
    assert sign("kai").json["missing"] == 0
    published = house.run(capsys, "bundle", "publish", str(bundle), "-o", "json")
    assert (published.code, published.json["counter"]) == (0, 1)
    both = ["--key", str(house.key("ina")), "--key", str(house.key("kai")), "-o", "json"]
    later = release_of(house, capsys, tmp_path / "later", "1.0.1", "safety")
    assert house.run(capsys, "bundle", "publish", str(later), *both).json["counter"] == 2


def release_of(house: House, capsys: Capture, folder: Path, version: str, product: str) -> Path:
    build(house.operator, folder, capsys, version)
    tarball = next(folder.glob("*.tar.gz"))
    words = ["bundle", "build", str(tarball), "--out", str(folder), "--product", product, "-o", "json"]
    return Path(house.run(capsys, *words).json["path"])


def test_a_release_can_withdraw_those_before_it(house: House, capsys: Capture, tmp_path: Path) -> None:
    signed, bundles = {}, {}
    for number in (1, 2, 3):
        bundles[number] = release_of(house, capsys, tmp_path / str(number), f"3.0.{number}", "my-app")
        more = ["--withdraw-older"] if number == 2 else []
        words = ["bundle", "publish", str(bundles[number]), "--key", str(house.key("emil")), *more, "-o", "json"]
        signed[number] = house.run(capsys, *words).json["counter"]
    listed = chain.parse_targets(house.served("my-app"), "my-app").signed.targets
    custom = {path.split("/")[1]: target.custom for path, target in listed.items() if "/3.0." in path}
    assert all(custom.values())
    floors = [(custom[f"3.0.{number}"] or {})["floor"] for number in (1, 2, 3)]
    assert floors == [1, signed[2], signed[2]]
    late = ["bundle", "sign", str(bundles[3]), "--key", str(house.key("emil")), "--withdraw-older"]
    assert code_of(house.run(capsys, *late)) == "release.withdrawn_alone"


def test_a_product_command_says_that_people_have_to_agree(house: House, capsys: Capture) -> None:
    refused = house.run(capsys, "product", "create", "another")
    assert (refused.code, code_of(refused)) == (1, "keys.several")
    assert "keys plan product" in refused.err


# -- signers


def test_a_signer_of_signers_toml_signs_in_place_of_a_key_file(house: House, capsys: Capture, tmp_path: Path) -> None:
    file = tmp_path / "signers.toml"
    file.write_text(f'[anna-safe]\nuri = "file2:{house.key("anna")}"\npublic = "{house.pub("anna")}"\n')
    plan = house.plan(capsys, "renew", "targets")
    words = ["keys", "sign", str(plan), "--yes", "--signers", str(file), "--signer"]
    assert house.run(capsys, *words, "anna-safe").code == 0
    assert code_of(house.run(capsys, *words, "nobody")) == "signer.unknown"
    house.sign(capsys, plan, "carl")
    assert house.publish(capsys, plan).code == 0


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("[a]\nuri = 1\n", "signer.malformed"),
        ("nonsense", "signer.malformed"),
        ('[a]\nuri = "file2:x"\npublic = "none.pub"\n', "trust.key_missing"),
        ('[a]\nuri = "magic:x"\npublic = "{pub}"\n', "trust.signer_scheme"),
        ('[a]\nuri = "file2:/nonexistent"\npublic = "{pub}"\n', "trust.signer_failed"),
        ('[a]\nuri = "file2:{other}"\npublic = "{pub}"\n', "trust.signer_failed"),
        ('[a]\nuri = "awskms:none"\npublic = "{pub}"\n', "trust.signer_failed"),
    ],
)
def test_a_signer_that_cannot_sign_has_its_code_and_leaves_the_plan_alone(
    content: str, code: str, house: House, capsys: Capture, tmp_path: Path
) -> None:
    house.key("anna")
    text = content.format(pub=house.pub("anna"), other=house.key("ben")) if "{" in content else content
    (tmp_path / "signers.toml").write_text(text)
    plan = house.plan(capsys, "renew", "targets")
    before = plan.read_bytes()
    refused = house.run(
        capsys, "keys", "sign", str(plan), "--yes", "--signers", str(tmp_path / "signers.toml"), "--signer", "a"
    )
    assert (refused.code, code_of(refused)) == (1, code)
    assert plan.read_bytes() == before


# -- from development to production, and back from nothing


def test_development_keys_are_replaced_without_a_new_start(
    operator: Operator, house: House, capsys: Capture, tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path / "dev")
    try:
        fleet.open("my-app")
        owner = Operator(fleet.work / "operator")
        plan = tmp_path / "plan.json"
        words = house.pubs("--root", *PEOPLE)
        assert owner.run("keys", "plan", "init", *words, "--out", str(plan), capsys=capsys).code == 0
        people = tmp_path / "people"
        for key in (house.key("anna"), house.key("ben"), owner.directory / "keys/default/root.key"):
            signer = Operator(people / key.stem)
            assert signer.run("keys", "sign", str(plan), "--key", str(key), "--yes", capsys=capsys).code == 0
        assert owner.run("keys", "publish", str(plan), capsys=capsys).code == 0
        status = owner.run("keys", "status", "-o", "json", capsys=capsys).json
        assert [(row["threshold"], row["version"]) for row in status[:2]] == [(2, 2), (2, 3)]
        assert fleet.json("bundle", "list") == []
        refused = owner.run("product", "create", "second", capsys=capsys)
        assert code_of(refused) == "keys.several"
    finally:
        fleet.close()


def test_an_empty_server_gets_everything_back_from_what_the_operator_has_seen(
    house: House, capsys: Capture, tmp_path: Path
) -> None:
    bundle = release_of(house, capsys, tmp_path / "kept", "9.0.0", "my-app")
    signing = ["--key", str(house.key("dora"))]
    assert house.run(capsys, "bundle", "sign", str(bundle), *signing).code == 0
    assert house.run(capsys, "bundle", "publish", str(bundle)).code == 0
    first_root = house.get("/metadata/root/1").content
    lost = {role: house.served(role) for role in ("root", "targets", "my-app")}
    new = Fleet(tmp_path / "new")
    try:
        new.serve()
        operator = Operator(tmp_path / "operator")
        operator.log_in(new)
        plan = tmp_path / "recover.json"
        refused = operator.run("keys", "plan", "recover", "--out", str(plan), capsys=capsys)
        assert code_of(refused) == "keys.nothing_kept"
        shutil.copytree(house.operator.directory / "keys", operator.directory / "keys")
        assert operator.run("keys", "plan", "recover", "--out", str(plan), capsys=capsys).code == 0
        for name in ("anna", "carl"):
            words = ["keys", "sign", str(plan), "--key", str(house.key(name)), "--yes"]
            assert house.run(capsys, *words).code == 0
        published = operator.run("keys", "publish", str(plan), "-o", "json", capsys=capsys)
        assert (published.code, published.json.get("published")) == (0, True), published.out
        again = operator.run("keys", "publish", str(plan), "-o", "json", capsys=capsys)
        assert (again.code, again.json["published"]) == (0, False)
        reissued = operator.run("bundle", "publish", str(bundle), "-o", "json", capsys=capsys)
        assert reissued.code == 0, reissued.out
        updater = Updater(tmp_path / "tuf", Served(new), first_root, datetime.now(UTC))
        updater.refresh()
        versions = updater.versions
        assert versions["root"] == chain.parse_root(lost["root"]).signed.version + 1
        assert versions["targets"] == chain.parse_top_targets(lost["targets"]).signed.version + 1
        manifest = Bundle.open(bundle).manifest
        assert updater.find(f"my-app/9.0.0/{manifest.target}/manifest")
    finally:
        new.close()


class Served:
    """Metadata as devices ask for it, fetched as an operator: this test is about signatures."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def __call__(self, name: str, /) -> list[bytes]:
        token = (self._fleet.data / "admin.token").read_text().strip()
        version, _, role = name.removesuffix(".json").rpartition(".")
        path = f"/metadata/{role}/{version}" if version else f"/metadata/{role}"
        answer = requests.get(
            f"{self._fleet.address('operators')}/api/v1{path}", headers={"Authorization": f"Bearer {token}"},
            verify=str(self._fleet.data / "ca.pem"), timeout=60,
        )  # fmt: skip
        if answer.status_code == 404:
            raise FileNotFoundError(name)
        return [answer.content]


def test_a_bundle_gives_back_the_metadata_that_it_carries(house: House, capsys: Capture, tmp_path: Path) -> None:
    bundle = release_of(house, capsys, tmp_path / "r", "9.1.0", "my-app")
    assert house.run(capsys, "bundle", "sign", str(bundle), "--key", str(house.key("dora"))).code == 0
    assert house.run(capsys, "bundle", "publish", str(bundle)).code == 0
    kept = house.operator.directory / "keys/default/metadata"
    names = {path.name for path in kept.iterdir()}
    for path in kept.glob("*.my-app.json"):
        path.unlink()
    done = house.run(capsys, "keys", "keep", str(bundle), "-o", "json")
    assert (done.code, len(done.json["kept"])) == (0, 1)
    assert {path.name for path in kept.iterdir()} <= names | {f"{done.json['kept'][0].split()[1]}.my-app.json"}
