"""Keys, products, releases: the command line against the real server."""

import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from beamfleet_bundles import chain
from beamfleet_bundles.bundle import Bundle

from tests.server.cli.terminal import Ended, Operator
from tests.support import skeleton
from tests.support.fleet import Fleet

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def new_fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A real server that nobody has initialised."""
    fleet = Fleet(tmp_path / "new")
    fleet.serve()
    yield fleet
    fleet.close()


def release(folder: Path, version: str = "1.0.0", content: bytes = b"") -> Path:
    """A tarball of a small release."""
    folder.mkdir(parents=True, exist_ok=True)
    files = skeleton.release(version=version) | ({"releases/extra": content} if content else {})
    return skeleton.write(folder, files)


def build(operator: Operator, folder: Path, capsys: Capture, version: str, content: bytes = b"") -> Path:
    built = operator.run("bundle", "build", str(release(folder, version, content)), "--out", str(folder), "-o", "json",
                         capsys=capsys)  # fmt: skip
    assert built.code == 0, built.out
    return Path(built.json["path"])


def code_of(ended: Ended) -> str:
    """The code of an error printed for people."""
    return ended.err.splitlines()[-2].rpartition("(")[2].rstrip(")")


def keys(operator: Operator) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (operator.directory / "keys/default").glob("*.key")}


def test_init_makes_keys_for_their_owner_alone_and_may_be_repeated(
    new_fleet: Fleet, operator: Operator, capsys: Capture
) -> None:
    operator.log_in(new_fleet)
    first = operator.run("init", "--development", "-o", "json", capsys=capsys)
    made = keys(operator)
    again = operator.run("init", "--development", "-o", "json", capsys=capsys)
    assert (first.json["created"], again.json["created"]) == (True, False)
    assert set(made) == {"root.key", "targets.key"}
    assert keys(operator) == made
    for name in made:
        assert stat.S_IMODE((operator.directory / "keys/default" / name).stat().st_mode) == 0o600


def test_before_init_every_way_to_a_release_says_init(
    new_fleet: Fleet, operator: Operator, capsys: Capture, tmp_path: Path
) -> None:
    operator.log_in(new_fleet)
    tarball = str(release(tmp_path / "r"))
    flash = ["flash", "--root", str(tmp_path / "d"), "--id", "gw-1", "--single-user", "--allow-unsafe-filesystem"]
    for words in (["push", tarball, "--all"], ["product", "create", "my-app"], flash):
        refused = operator.run(*words, capsys=capsys)
        assert (refused.code, code_of(refused)) == (1, "init.missing")
        assert "beamfleet init --development" in refused.err
    assert not (tmp_path / "d").exists()


def test_init_carries_on_after_a_kill_between_signing_and_sending(
    new_fleet: Fleet, operator: Operator, capsys: Capture
) -> None:
    operator.log_in(new_fleet)
    directory = operator.directory / "keys/default"
    directory.mkdir(parents=True)
    (directory / "root.json").write_bytes(b"what an earlier try had signed and never sent")
    assert operator.run("init", "--development", capsys=capsys).code == 0
    assert chain.verify_root((directory / "root.json").read_bytes(), None).version == 1


def test_init_on_a_server_with_foreign_keys_is_refused_and_makes_none(guest: Operator, capsys: Capture) -> None:
    refused = guest.run("init", "--development", capsys=capsys)
    assert (refused.code, code_of(refused)) == (1, "init.foreign_root")
    assert keys(guest) == {}


def test_init_without_development_says_that_there_is_nothing_else(guest: Operator, capsys: Capture) -> None:
    assert guest.run("init", capsys=capsys).code == 2


def test_a_product_is_created_once(owner: Operator, capsys: Capture) -> None:
    first = owner.run("product", "create", "once", "-o", "json", capsys=capsys)
    key = Path(first.json["key"]).read_bytes()
    again = owner.run("product", "create", "once", "-o", "json", capsys=capsys)
    assert (first.json["created"], again.json["created"]) == (True, False)
    assert Path(first.json["key"]).read_bytes() == key
    assert "once" in owner.run("product", "list", "-o", "name", capsys=capsys).out.split()


@pytest.mark.parametrize("name", ["My_App", "director", "x" * 40, "../x"])
def test_a_name_that_is_none_makes_no_product_and_no_key(name: str, owner: Operator, capsys: Capture) -> None:
    before = keys(owner)
    refused = owner.run("product", "create", name, capsys=capsys)
    assert (refused.code, code_of(refused)) == (1, "name.product")
    assert keys(owner) == before


def test_without_the_keys_no_product_and_no_release_can_be_signed(
    guest: Operator, capsys: Capture, tmp_path: Path
) -> None:
    for words in (["product", "create", "mine"], ["product", "create", "my-app"],
                  ["bundle", "sign", str(build(guest, tmp_path / "r", capsys, "0.0.1"))]):  # fmt: skip
        refused = guest.run(*words, capsys=capsys)
        assert (refused.code, code_of(refused)) == (1, "keys.missing")


def test_the_key_of_another_product_does_not_sign(
    owner: Operator, guest: Operator, capsys: Capture, tmp_path: Path
) -> None:
    assert owner.run("product", "create", "other", capsys=capsys).code == 0
    directory = guest.directory / "keys/default"
    directory.mkdir(parents=True)
    shutil.copy(owner.directory / "keys/default/product-other.key", directory / "product-my-app.key")
    refused = guest.run("bundle", "publish", str(build(guest, tmp_path / "r", capsys, "0.0.2")), capsys=capsys)
    assert (refused.code, code_of(refused)) == (1, "keys.missing")


def test_a_key_that_others_can_read_is_not_used(
    owner: Operator, guest: Operator, capsys: Capture, tmp_path: Path
) -> None:
    key = guest.directory / "keys/default/product-my-app.key"
    key.parent.mkdir(parents=True)
    shutil.copy(owner.directory / "keys/default/product-my-app.key", key)
    key.chmod(0o644)
    refused = guest.run("bundle", "publish", str(build(guest, tmp_path / "r", capsys, "0.0.3")), capsys=capsys)
    assert (refused.code, code_of(refused)) == (1, "trust.key_permissions")
    assert f"chmod 600 {key}" in refused.err


def test_the_same_release_is_published_once_however_often(owner: Operator, capsys: Capture, tmp_path: Path) -> None:
    bundle = str(build(owner, tmp_path / "r", capsys, "1.0.0"))
    first = owner.run("bundle", "publish", bundle, "-o", "json", capsys=capsys).json
    again = owner.run("bundle", "publish", bundle, "-o", "json", capsys=capsys).json
    assert (first["already"], again["already"]) == (False, True)
    assert first["manifest"] == again["manifest"]
    listed = owner.run("bundle", "list", "--product", "my-app", "--version", "1.0.0", "-o", "json", capsys=capsys).json
    assert [item["counter"] for item in listed] == [first["counter"]]


def test_other_content_under_a_published_version_is_refused_with_the_way_out(
    owner: Operator, capsys: Capture, tmp_path: Path
) -> None:
    assert owner.run("bundle", "publish", str(build(owner, tmp_path / "a", capsys, "1.1.0")), capsys=capsys).code == 0
    refused = owner.run("push", str(release(tmp_path / "b", "1.1.0", b"changed")), "--all", capsys=capsys)
    assert (refused.code, code_of(refused)) == (1, "bundle.version_exists")
    assert "raise the version" in refused.err


def test_counters_rise_release_by_release(owner: Operator, capsys: Capture, tmp_path: Path) -> None:
    counters = [
        owner.run("bundle", "publish", str(build(owner, tmp_path / version, capsys, version)), "-o", "json",
                  capsys=capsys).json["counter"]
        for version in ("2.0.0", "1.9.0", "2.0.1")
    ]  # fmt: skip
    assert counters == sorted(set(counters))


def test_of_operators_who_publish_at_once_each_gets_through(owner: Operator, capsys: Capture, tmp_path: Path) -> None:
    bundles = [build(owner, tmp_path / str(n), capsys, f"3.0.{n}") for n in range(3)]
    done: list[Ended] = []
    threads = [
        threading.Thread(
            target=lambda path=path: done.append(owner.child("bundle", "publish", str(path), "-o", "json"))
        )
        for path in bundles
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [ended.code for ended in done] == [0, 0, 0], [ended.out for ended in done]
    assert len({ended.json["counter"] for ended in done}) == 3


def test_a_bundle_that_was_signed_too_long_ago_is_signed_again(
    owner: Operator, capsys: Capture, tmp_path: Path
) -> None:
    late = build(owner, tmp_path / "late", capsys, "4.0.0")
    signed = owner.run("bundle", "sign", str(late), "-o", "json", capsys=capsys).json
    between = build(owner, tmp_path / "between", capsys, "4.0.1")
    assert owner.run("bundle", "publish", str(between), capsys=capsys).code == 0
    published = owner.run("bundle", "publish", str(late), "-o", "json", capsys=capsys)
    assert published.code == 0
    assert published.json["counter"] > signed["counter"]


def test_a_signed_bundle_can_be_published_without_a_key(
    owner: Operator, guest: Operator, capsys: Capture, tmp_path: Path
) -> None:
    bundle = build(owner, tmp_path / "r", capsys, "5.0.0")
    assert owner.run("bundle", "sign", str(bundle), capsys=capsys).code == 0
    assert guest.run("bundle", "publish", str(bundle), capsys=capsys).code == 0
    assert keys(guest) == {}


def test_inspect_tells_signed_from_unsigned_and_trusted_from_not(
    owner: Operator, operator: Operator, capsys: Capture, tmp_path: Path
) -> None:
    bundle = str(build(owner, tmp_path / "r", capsys, "6.0.0"))

    def state(of: Operator) -> str:
        return str(of.run("bundle", "inspect", bundle, "-o", "json", capsys=capsys).json["signature"]["state"])

    assert state(owner) == "unsigned"
    assert owner.run("bundle", "sign", bundle, capsys=capsys).code == 0
    assert (state(owner), state(operator)) == ("trusted", "unchecked")
    opened = Bundle.open(Path(bundle))
    name = next(name for name in opened.metadata if name.startswith("my-app."))
    broken = opened.metadata[name].replace(b'"counter":', b'"counter":9')
    assert broken != opened.metadata[name]
    opened.with_metadata(Path(bundle), {**opened.metadata, name: broken})
    assert state(owner) == "untrusted"


def test_a_damaged_bundle_is_told_by_inspect(owner: Operator, capsys: Capture, tmp_path: Path) -> None:
    bundle = build(owner, tmp_path / "r", capsys, "6.1.0")
    content = bytearray(bundle.read_bytes())
    content[len(content) // 2] ^= 1
    bundle.write_bytes(content)
    assert owner.run("bundle", "inspect", str(bundle), capsys=capsys).code == 1
    bundle.write_bytes(content[:-100])
    assert code_of(owner.run("bundle", "inspect", str(bundle), capsys=capsys)) == "bundle.truncated"


def test_a_server_with_another_root_behind_the_known_address_is_not_believed(
    new_fleet: Fleet, operator: Operator, owner: Operator, capsys: Capture, tmp_path: Path
) -> None:
    operator.log_in(new_fleet)
    assert operator.run("init", "--development", capsys=capsys).code == 0
    pinned = operator.directory / "keys/default/root.json"
    pinned.write_bytes((owner.directory / "keys/default/root.json").read_bytes())
    refused = operator.run("product", "create", "my-app", capsys=capsys)
    assert (refused.code, code_of(refused)) == (1, "metadata.untrusted")
    assert str(pinned) in refused.err


def test_who_only_logs_in_pins_the_root_at_first_use(
    guest: Operator, owner: Operator, capsys: Capture, tmp_path: Path
) -> None:
    guest.run("bundle", "sign", str(build(guest, tmp_path / "r", capsys, "7.0.0")), capsys=capsys)
    name = "keys/default/root.json"
    assert (guest.directory / name).read_bytes() == (owner.directory / name).read_bytes()


def test_no_signing_key_of_the_operator_is_anywhere_on_the_server(fleet: Fleet, owner: Operator) -> None:
    secrets = [b"".join(key.splitlines()[1:-1]) for key in keys(owner).values()]
    assert len(secrets) >= 3
    for path in fleet.data.rglob("*"):
        if path.is_file():
            content = path.read_bytes().replace(b"\n", b"")
            assert not any(secret in content for secret in secrets), path
