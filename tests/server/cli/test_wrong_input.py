"""What people give the command line by mistake: it is refused before anything is done, with what is wrong and why."""

import os
import subprocess
from pathlib import Path

import pytest
from beamfleet_server.cli.contexts import Contexts

from tests.server.cli.api_script import TOKEN, ScriptedApi
from tests.server.cli.house import code_of
from tests.server.cli.terminal import COMMAND, Operator, clean_environment

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def anna(api: ScriptedApi, operator: Operator) -> Operator:
    """Somebody with a context for the scripted server."""
    Contexts(operator.directory).save("here", api.url, TOKEN, api.ca.read_bytes())
    return operator


# --- questions that nobody hears


ASKED = [
    ("device", "delete", "gw-1"),
    ("device", "decommission", "gw-1"),
    ("device", "revoke", "gw-1"),
    ("device", "replace", "gw-1", "gw-2"),
]


@pytest.mark.parametrize("words", ASKED, ids=" ".join)
def test_what_nobody_can_be_asked_about_is_not_done(
    anna: Operator, api: ScriptedApi, capsys: Capture, words: tuple[str, ...]
) -> None:
    refused = anna.run(*words, capsys=capsys)
    assert (refused.code, code_of(refused), api.requests) == (2, "usage.not_asked", [])
    assert "hint: add --yes" in refused.err
    assert anna.run(*words, "-o", "json", capsys=capsys).json["code"] == "usage.not_asked"


@pytest.mark.parametrize("words", ASKED, ids=" ".join)
def test_at_a_terminal_a_person_is_asked_and_may_say_no(
    anna: Operator, api: ScriptedApi, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    code, shown = anna.answer(*words, answer="n", monkeypatch=monkeypatch)
    assert (code, "gw-1" in shown, shown.endswith("Aborted!\n"), api.requests) == (1, True, True, [])


# --- places for what is shown once


@pytest.mark.parametrize(
    "words",
    [
        ("token", "create", "gw-1"),
        ("token", "create", "--batch", "2"),
        ("operator", "create", "ben", "--role", "viewer"),
        ("webhook", "create", "https://hooks.example"),
        ("webhook", "rotate", "1"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize(
    ("name", "code"),
    [("folder", "file.failed"), ("nix/x", "file.failed"), ("held", "file.exists"), ("", "file.failed")],
)
def test_a_secret_is_not_made_for_a_place_that_cannot_have_it(
    anna: Operator, api: ScriptedApi, capsys: Capture, tmp_path: Path, words: tuple[str, ...], name: str, code: str
) -> None:
    work = tmp_path / "work"
    (work / "folder").mkdir(parents=True)
    (work / "held").write_text("another token\n")
    refused = anna.run(*words, "--out", str(work / name), capsys=capsys)
    assert (refused.code, code_of(refused), api.requests) == (1, code, [])
    assert f"{work / name} " in refused.err
    assert sorted(path.name for path in work.rglob("*")) == ["folder", "held"]
    assert (work / "held").read_text() == "another token\n"


# --- files that may not be read


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """A file that nobody may read."""
    path = tmp_path / "locked"
    path.write_text("secret")
    path.chmod(0)
    return path


@pytest.mark.parametrize(
    "words",
    [
        ("login", "https://127.0.0.1:1", "--token-file", "{}", "--ca", "/dev/null"),
        ("rollout", "start", "-f", "{}", "--all"),
        ("rollout", "start", "a", "1", "--all", "--notes", "@{}"),
        ("audit", "verify", "{}"),
        ("bundle", "inspect", "{}"),
        ("bundle", "build", "{}"),
        ("keys", "show", "{}"),
        ("keys", "sign", "{}", "--key", "x", "--yes"),
        ("keys", "import", "anna", "{}"),
        ("keys", "keep", "{}"),
        ("keys", "evidence", "open", "{}"),
        ("device", "provision", "--from", "{}", "--out", "x"),
        ("simulate", "--scenario", "{}"),
        ("flash", "--batch", "{}"),
        ("flash", "--root", "x", "--id", "x", "--token-file", "{}", "--yes"),
    ],
    ids=" ".join,
)
def test_a_file_that_may_not_be_read_is_no_mistake_of_the_words(
    anna: Operator, locked: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """As somebody whom permissions bind, also where the tests run as root."""
    bound = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    done = subprocess.run(
        [*bound, COMMAND, "--config-dir", anna.directory, *(word.format(locked) for word in words)],
        capture_output=True, text=True, timeout=60, cwd=tmp_path, env=clean_environment(),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    codes = "file.unreadable", "bundle.not_found", "archive.unreadable", "trust.key_unreadable"
    assert any(f"({code})\nhint: " in done.stderr for code in codes)
    assert f"{locked}" in done.stderr
    assert "ermission denied" in done.stderr


# --- words that cannot be meant


@pytest.mark.parametrize("wrong", ["", "..", "a/b", "Gateway_1"])
@pytest.mark.parametrize(
    "words",
    [
        ("show",),
        ("label", "x=1"),
        ("delete", "--yes"),
        ("diagnose",),
        ("pin", "--reason", "x"),
        ("unpin",),
        ("revoke", "--yes"),
        ("accept",),
        ("reject",),
        ("replace", "gw-1", "--yes"),
        ("decommission", "--yes"),
        ("accept-clone",),
    ],
    ids=" ".join,
)
def test_what_is_no_id_of_a_device_is_refused_before_a_server_is_asked(
    anna: Operator, api: ScriptedApi, capsys: Capture, words: tuple[str, ...], wrong: str
) -> None:
    refused = anna.run("device", words[0], wrong, *words[1:], "-o", "json", capsys=capsys)
    assert (refused.code, refused.json["code"], api.requests) == (1, "name.device", [])
    assert (refused.err, repr(wrong) in refused.json["detail"]) == ("", True)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("token", "create", "gw-1", "--expires", "9999d"), "usage.duration", "--expires is at most 366d, not 9999d"),
        (("operator", "create", "ben", "--role", "viewer", "--expires", "367d"), "usage.duration", "--expires"),
        (("token", "create", "--batch", "0"), "usage.token", "--batch is 1 to 100000, not 0"),
        (("token", "create", "--batch", "100001"), "usage.token", "--batch is 1 to 100000, not 100001"),
        (("token", "create", "--any", "--prefix", "A_"), "usage.token", "--prefix 'A_'"),
    ],
)
def test_what_no_token_can_be_is_told_with_its_flag_and_range(
    anna: Operator, api: ScriptedApi, capsys: Capture, words: tuple[str, ...], code: str, told: str
) -> None:
    refused = anna.run(*words, capsys=capsys)
    assert (refused.code, code_of(refused), told in refused.err, api.requests) == (2, code, True, [])
    assert "\nhint: " in refused.err


# --- what a device is not asked in vain


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--out", "{}/folder"), "file.exists"),
        (("--out", "{}/held"), "file.exists"),
        (("--out", "{}/nix/x"), "file.failed"),
        (("--sealed", "--out", "{}/folder"), "file.failed"),
        (("--sealed", "--out", "{}/held"), "file.exists"),
        (("--out", "{}/new", "--key", "{}/nix"), "trust.key_missing"),
        (("--out", "{}/new", "--key", "{}/folder"), "trust.key_unreadable"),
        (("--out", "{}/new", "--key", "{}/held"), "trust.key_unreadable"),
    ],
)
def test_no_evidence_is_asked_for_that_could_not_be_kept_or_opened(
    anna: Operator, api: ScriptedApi, capsys: Capture, tmp_path: Path, words: tuple[str, ...], code: str
) -> None:
    work = tmp_path / "work"
    (work / "folder").mkdir(parents=True)
    (work / "held").touch(0o600)
    refused = anna.run("device", "diagnose", "gw-1", *(word.format(work) for word in words), capsys=capsys)
    assert (refused.code, code_of(refused), api.requests) == (1, code, [])
    assert "\nhint: " in refused.err
    assert sorted(path.name for path in work.iterdir()) == ["folder", "held"]
