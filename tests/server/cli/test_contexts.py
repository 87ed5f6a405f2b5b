import stat
import threading
from pathlib import Path

import pytest
from beamfleet_server.cli.contexts import Contexts, check_name, check_server
from beamfleet_server.cli.errors import CommandError


@pytest.fixture
def contexts(tmp_path: Path) -> Contexts:
    return Contexts(tmp_path / "deep" / "config")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_before_the_first_login_the_way_to_log_in_is_told(contexts: Contexts) -> None:
    with pytest.raises(CommandError) as refused:
        contexts.get()
    assert refused.value.code == "login.missing"
    assert "beamfleet login" in refused.value.hint
    assert contexts.all() == []
    assert contexts.current() == ""


def test_a_saved_context_is_the_current_one_and_reads_back(contexts: Contexts) -> None:
    contexts.save("berlin", "https://127.0.0.1:8443", "secret", b"PEM")
    context = contexts.get()
    assert (context.name, context.server, context.token()) == ("berlin", "https://127.0.0.1:8443", "secret")
    assert context.ca.read_bytes() == b"PEM"


def test_the_token_is_for_its_owner_alone(contexts: Contexts) -> None:
    context = contexts.save("berlin", "https://127.0.0.1:8443", "secret", b"PEM")
    assert mode(context.token_file) == 0o600
    assert mode(contexts.directory) == 0o700
    assert mode(context.token_file.parent) == 0o700
    assert "secret" not in (contexts.directory / "config.toml").read_text()


def test_a_second_login_replaces_address_token_and_certificate(contexts: Contexts) -> None:
    contexts.save("berlin", "https://127.0.0.1:1", "old", b"OLD")
    context = contexts.save("berlin", "https://127.0.0.1:2", "new", b"NEW")
    assert (context.server, context.token(), context.ca.read_bytes()) == ("https://127.0.0.1:2", "new", b"NEW")
    assert [known.server for known in contexts.all()] == ["https://127.0.0.1:2"]


def test_the_current_context_can_be_changed(contexts: Contexts) -> None:
    contexts.save("berlin", "https://127.0.0.1:1", "t", b"")
    contexts.save("bonn", "https://127.0.0.1:2", "t", b"")
    assert contexts.current() == "bonn"
    contexts.use("berlin")
    assert contexts.get().name == "berlin"
    assert contexts.get("bonn").server == "https://127.0.0.1:2"


def test_an_unknown_context_is_refused_with_those_that_exist(contexts: Contexts) -> None:
    contexts.save("berlin", "https://127.0.0.1:1", "t", b"")
    with pytest.raises(CommandError) as refused:
        contexts.use("bonn")
    assert (refused.value.code, "berlin" in refused.value.hint) == ("context.unknown", True)


def test_logging_out_removes_the_token_and_keeps_the_context(contexts: Contexts) -> None:
    context = contexts.save("berlin", "https://127.0.0.1:1", "t", b"PEM")
    assert contexts.forget_token("berlin")
    assert not contexts.forget_token("berlin")
    assert contexts.get().ca.exists()
    with pytest.raises(CommandError) as refused:
        context.token()
    assert refused.value.code == "login.missing"


@pytest.mark.parametrize(
    "content", ["current = ", "contexts = 3", "[contexts.berlin]\nport = 1", "current = 1", "\xff"]
)
def test_a_damaged_file_is_named_and_not_overwritten(contexts: Contexts, content: str) -> None:
    contexts.directory.mkdir(parents=True)
    file = contexts.directory / "config.toml"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(CommandError) as refused:
        contexts.save("berlin", "https://127.0.0.1:1", "t", b"")
    assert (refused.value.code, str(file) in refused.value.message) == ("config.malformed", True)
    assert file.read_bytes() == content.encode("latin-1")


def test_logins_at_the_same_time_lose_no_context(contexts: Contexts) -> None:
    names = [f"site-{number}" for number in range(8)]
    threads = [
        threading.Thread(target=contexts.save, args=(name, "https://127.0.0.1:1", name, b"PEM")) for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [context.name for context in contexts.all()] == names
    assert [context.token() for context in contexts.all()] == names


def test_a_directory_that_cannot_be_made_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandError) as refused:
        Contexts(tmp_path / "file" / "config").save("berlin", "https://127.0.0.1:1", "t", b"")
    assert (refused.value.code, "--config-dir" in refused.value.hint) == ("config.unwritable", True)


@pytest.mark.parametrize("name", ["", "Berlin", "../x", "a/b", "-x", "x" * 64, "a b"])
def test_a_context_name_that_would_not_do_as_a_file_name_is_refused(name: str) -> None:
    with pytest.raises(CommandError) as refused:
        check_name(name)
    assert refused.value.code == "context.name"


@pytest.mark.parametrize("server", ["https://127.0.0.1:8443", "https://[::1]:8443", "https://fleet.example/"])
def test_a_server_is_an_https_address_without_a_path(server: str) -> None:
    assert check_server(server) == server.rstrip("/")


@pytest.mark.parametrize(
    "server",
    ["http://127.0.0.1:8443", "127.0.0.1:8443", "https://", "https://127.0.0.1/api", "https://127.0.0.1:99999",
     "https://me:secret@localhost", "https://localhost?x=1", "https://localhost:port"],
)  # fmt: skip
def test_an_address_that_would_give_the_token_away_or_is_none_is_refused(server: str) -> None:
    with pytest.raises(CommandError) as refused:
        check_server(server)
    assert refused.value.code == "login.url"
