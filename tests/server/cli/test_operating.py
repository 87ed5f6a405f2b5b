"""Logging in, looking, labelling, tokens, events: the command line against the real server."""

import json
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from beamfleet_server.cli.contexts import Contexts

from tests.server.cli.api_script import TOKEN, Answer, ScriptedApi, make_certificate, problem
from tests.server.cli.terminal import COMMAND, Operator, clean_environment
from tests.server.cli.test_signing import build, code_of
from tests.support.fleet import Fleet, wait_for

Capture = pytest.CaptureFixture[str]
LISTS = [
    ("device", "list"),
    ("top",),
    ("bundle", "list"),
    ("product", "list"),
    ("rollout", "history"),
    ("approval", "list"),
    ("quarantine", "list"),
    ("events",),
    ("operator", "list"),
    ("audit", "list"),
    ("context", "list"),
    ("config",),
]
OBJECTS = [("health",), ("context", "show")]


def login_words(fleet: Fleet, token: Path | None = None) -> list[str]:
    """The log-in of the first operator, but for the certificate authority."""
    return ["login", fleet.address("operators"), "--token-file", str(token or fleet.data / "admin.token")]


def test_login_tells_who_one_is_and_what_to_do_next(fleet: Fleet, operator: Operator, capsys: Capture) -> None:
    words = login_words(fleet)
    done = operator.run(*words, "--ca", str(fleet.data / "ca.pem"), capsys=capsys)
    assert (done.code, "admin" in done.out, "next: beamfleet " in done.err) == (0, True, True)
    again = operator.run(*words, "-o", "json", capsys=capsys)
    assert (again.code, again.json["role"]) == (0, "admin")


def test_the_token_may_come_from_stdin(fleet: Fleet, operator: Operator) -> None:
    token = (fleet.data / "admin.token").read_text()
    done = operator.child(
        "login", fleet.address("operators"), "--token-file", "-", "--ca", str(fleet.data / "ca.pem"), stdin=token
    )
    assert done.code == 0
    assert token.strip() not in done.out + done.err


def test_a_wrong_token_is_refused_and_nothing_is_kept(
    fleet: Fleet, operator: Operator, capsys: Capture, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("not-the-token\n")
    refused = operator.run(*login_words(fleet, tmp_path / "token"), "--ca", str(fleet.data / "ca.pem"), capsys=capsys)
    assert (refused.code, code_of(refused)) == (1, "auth.required")
    assert not (operator.directory / "config.toml").exists()


@pytest.mark.parametrize("content", ["", "two words", "two\nlines", "\x1b[31m", "ünicode"])
def test_a_file_that_holds_no_token_is_refused_before_anything_is_sent(
    content: str, operator: Operator, capsys: Capture, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(content)
    (tmp_path / "ca.pem").write_text("")
    refused = operator.run(
        "login", "https://127.0.0.1:1", "--token-file", str(tmp_path / "token"), "--ca", str(tmp_path / "ca.pem"),
        capsys=capsys,
    )  # fmt: skip
    assert (refused.code, code_of(refused)) == (1, "token.missing")


def test_a_server_that_is_not_of_the_given_authority_gets_no_token(
    fleet: Fleet, operator: Operator, capsys: Capture, tmp_path: Path
) -> None:
    make_certificate(tmp_path / "key", tmp_path / "other-ca.pem")
    words = login_words(fleet)
    refused = operator.run(*words, "--ca", str(tmp_path / "other-ca.pem"), capsys=capsys)
    assert (refused.code, code_of(refused)) == (1, "server.untrusted")
    without = operator.run(*words, capsys=capsys)
    assert (without.code, code_of(without)) == (1, "server.ca_missing")


def test_logout_forgets_the_token(guest: Operator, capsys: Capture) -> None:
    assert guest.run("logout", capsys=capsys).code == 0
    assert code_of(guest.run("device", "list", capsys=capsys)) == "login.missing"


def test_contexts_are_kept_side_by_side(fleet: Fleet, guest: Operator, capsys: Capture) -> None:
    words = login_words(fleet)
    assert guest.run("--context", "second", *words, "--ca", str(fleet.data / "ca.pem"), capsys=capsys).code == 0
    assert guest.run("context", "show", "-o", "name", capsys=capsys).out == "second\n"
    assert guest.run("context", "use", "default", capsys=capsys).code == 0
    assert guest.run("context", "list", "-o", "name", capsys=capsys).out.split() == ["default", "second"]
    assert guest.run("--context", "second", "context", "show", "-o", "json", capsys=capsys).json["name"] == "second"


@pytest.mark.parametrize("words", LISTS, ids=" ".join)
def test_every_list_prints_a_json_array_and_names(words: tuple[str, ...], guest: Operator, capsys: Capture) -> None:
    shown = guest.run(*words, "-o", "json", capsys=capsys)
    assert (shown.code, isinstance(shown.json, list), shown.err) == (0, True, "")
    assert guest.run(*words, "-o", "name", capsys=capsys).code == 0
    assert guest.run(*words, "-o", "yaml", capsys=capsys).code == 0
    assert guest.run(*words, capsys=capsys).code == 0


@pytest.mark.parametrize("words", OBJECTS, ids=" ".join)
def test_every_object_prints_as_one_json_object(words: tuple[str, ...], guest: Operator, capsys: Capture) -> None:
    shown = guest.run(*words, "-o", "json", capsys=capsys)
    assert (shown.code, isinstance(shown.json, dict), shown.err) == (0, True, "")
    assert guest.run(*words, capsys=capsys).code == 0


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["device", "show", "nobody"], "device.unknown"),
        (["device", "label", "nobody", "site=berlin"], "device.unknown"),
        (["rollout", "status", "99"], "rollout.unknown"),
        (["rollout", "abort", "99"], "rollout.unknown"),
        (["rollout", "pause", "99"], "rollout.unknown"),
        (["rollout", "resume", "99"], "rollout.unknown"),
        (["rollout", "approve", "99"], "rollout.unknown"),
        (["rollout", "undo", "99"], "rollout.unknown"),
        (["rollout", "retry", "99"], "rollout.unknown"),
        (["rollout", "diff", "99"], "rollout.unknown"),
        (["rollout", "devices", "99"], "rollout.unknown"),
        (["approval", "accept", "99"], "approval.unknown"),
        (["quarantine", "lift", "my-app", "9.9.9"], "quarantine.unknown"),
        (["device", "pin", "nobody", "--reason", "x"], "device.unknown"),
        (["device", "unpin", "nobody"], "device.unknown"),
        (["rollout", "status"], "rollout.none"),
        (["rollout", "start", "my-app", "9.9.9", "--all"], "release.unknown"),
        (["rollout", "start", "my-app", "9.9.9"], "usage.selector"),
        (["token", "create", "Not_A_Device"], "name.device"),
        (["token", "create", "gw-1", "--expires", "soon"], "usage.duration"),
    ],
)
def test_what_is_not_there_is_an_error_with_a_code(
    words: list[str], code: str, guest: Operator, capsys: Capture
) -> None:
    refused = guest.run(*words, "-o", "json", capsys=capsys)
    assert (refused.code, refused.json["code"]) == (2 if code.startswith("usage.") else 1, code)


def test_config_shows_the_settings_of_the_server_with_their_sources(guest: Operator, capsys: Capture) -> None:
    rows = {row["key"]: row for row in guest.run("config", "-o", "json", capsys=capsys).json if row["side"] == "server"}
    assert (rows["data"]["source"], rows["offline_after_s"]["source"]) == ("flag", "default")


def test_a_token_is_printed_alone_or_written_for_its_owner(guest: Operator, capsys: Capture, tmp_path: Path) -> None:
    shown = guest.run("token", "create", "gw-1", "-l", "site=berlin", capsys=capsys)
    assert (shown.code, len(shown.out.split())) == (0, 1)
    file = tmp_path / "gw-1.token"
    written = guest.run("token", "create", "gw-1", "--out", str(file), "-o", "json", capsys=capsys)
    assert (written.json["token"], stat.S_IMODE(file.stat().st_mode)) == (None, 0o600)
    assert file.read_text().strip() not in written.out


def test_a_token_for_an_enrolled_device_tells_how_to_replace_it(
    operator: Operator, api: ScriptedApi, capsys: Capture
) -> None:
    Contexts(operator.directory).save("berlin", api.url, TOKEN, api.ca.read_bytes())
    api.script(
        problem(409, "device.exists", "gw-1 is enrolled"), Answer({"token": "t", "device": "gw-1", "expires": "x"})
    )
    refused = operator.run("token", "create", "gw-1", capsys=capsys)
    assert (refused.code, code_of(refused), "--replace" in refused.err) == (1, "device.exists", True)
    assert operator.run("token", "create", "gw-1", "--replace", capsys=capsys).code == 0
    assert [json.loads(request.body)["replace"] for request in api.requests] == [False, True]


def test_a_bundle_is_pushed_as_it_was_built(owner: Operator, capsys: Capture, tmp_path: Path) -> None:
    bundle = build(owner, tmp_path / "r", capsys, "8.0.1")
    refused = owner.run("push", str(bundle), "--version", "8.0.2", "--all", capsys=capsys)
    assert (refused.code, code_of(refused)) == (2, "usage.built")


def test_a_push_to_nobody_says_so_after_publishing(owner: Operator, capsys: Capture, tmp_path: Path) -> None:
    bundle = build(owner, tmp_path / "r", capsys, "8.0.0")
    refused = owner.run("push", str(bundle), "-l", "site=nowhere", "-o", "json", capsys=capsys)
    assert (refused.code, refused.json["code"]) == (1, "rollout.no_devices")
    assert "my-app 8.0.0 is published" in refused.err


def test_a_push_of_a_product_that_nobody_created_says_how_to(owner: Operator, capsys: Capture, tmp_path: Path) -> None:
    bundle = build(owner, tmp_path / "r", capsys, "8.0.0")
    refused = owner.run(
        "push", str(bundle.with_name("release.tar.gz")), "--product", "unheard-of", "--all", capsys=capsys
    )
    assert (refused.code, code_of(refused)) == (1, "product.unknown")
    assert "beamfleet product create unheard-of" in refused.err


class Following:
    """`beamfleet events --follow` as a child process whose lines are collected."""

    def __init__(self, operator: Operator, log: Path) -> None:
        environment = clean_environment() | {"BEAMFLEET_CONFIG_DIR": str(operator.directory)}
        self._log = log
        with log.open("wb") as out:
            words = [str(COMMAND), "events", "--follow", "-o", "json"]
            self.process = subprocess.Popen(words, stdout=out, stderr=subprocess.PIPE, env=environment, text=True)

    def details(self) -> list[str]:
        lines = self._log.read_text().splitlines()
        return [json.loads(line)["detail"] for line in lines if line.endswith("}")]

    def wait_for(self, word: str) -> None:
        wait_for(f"an event with {word}", lambda: any(word in detail for detail in self.details()), deadline_s=30)


@pytest.fixture
def following(owner: Operator, tmp_path: Path) -> Iterator[Following]:
    follower = Following(owner, tmp_path / "events")
    yield follower
    follower.process.terminate()
    follower.process.communicate(timeout=30)


def test_events_are_followed_over_a_restart_of_the_server(
    fleet: Fleet, owner: Operator, following: Following, capsys: Capture, tmp_path: Path
) -> None:
    assert owner.run("bundle", "publish", str(build(owner, tmp_path / "a", capsys, "9.0.0")), capsys=capsys).code == 0
    following.wait_for("my-app 9.0.0")
    fleet.kill_server()
    assert owner.run("bundle", "publish", str(build(owner, tmp_path / "b", capsys, "9.0.1")), capsys=capsys).code == 0
    following.wait_for("my-app 9.0.1")
    seen = following.details()
    assert len(seen) == len(set(seen))


def test_following_ends_on_a_signal_without_a_traceback(
    following: Following, owner: Operator, capsys: Capture, tmp_path: Path
) -> None:
    assert owner.run("bundle", "publish", str(build(owner, tmp_path / "a", capsys, "9.1.0")), capsys=capsys).code == 0
    following.wait_for("my-app 9.1.0")
    following.process.send_signal(2)
    assert following.process.wait(10) == 130
    assert following.process.stderr
    assert following.process.stderr.read() == ""
