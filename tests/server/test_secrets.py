"""Secrets are in files of their owner and nowhere else: not in a log line, not in a process list, not in an answer."""

import base64
import os
import stat
from pathlib import Path

import pytest

from tests.server.conftest import open_centre
from tests.support.server import Server, alive, running_server


def command_lines(pid: int) -> bytes:
    """What `ps` shows of a process and of all below it."""
    shown = Path(f"/proc/{pid}/cmdline").read_bytes()
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            shown += command_lines(int(child))
    return shown


def test_no_secret_is_in_a_log_or_in_a_process_list(tmp_path: Path) -> None:
    with running_server(tmp_path / "server", log_level="debug", log_format="json") as server:
        secrets = {"admin's token": server.token}
        secrets["operator's token"] = server.post("/operators", {"name": "anna", "role": "operator"})["token"]
        secrets["device's token"] = server.new_token("gw-2")
        session = server.api("POST", "/session")
        secrets["CSRF token"] = session.json()["csrf_token"]
        secrets["cookie"] = session.headers["set-cookie"].partition("=")[2].partition(";")[0]
        secrets["wrong token"] = "a-token-of-another-server"
        server.api("GET", "/devices", token=secrets["wrong token"])
        server.simpleenroll("gw-2", secrets["wrong token"], b"x")
        centre = open_centre(tmp_path, server)
        device = centre.device("gw-1")
        device.acknowledged(device.report())
        shown = command_lines(server.pid) + server.log.read_bytes()
        server.restart()
        shown += command_lines(server.pid)
        device.close()
    shown += server.log.read_bytes()
    raw = server.data / "keys/webhooks.key"
    for path in set(server.data.rglob("*.key")) - {raw}:
        secrets[path.name] = path.read_text().splitlines()[1]
    forms = {"hex": raw.read_bytes().hex(), "base64": base64.b64encode(raw.read_bytes()).decode()}
    secrets |= {f"{raw.name} in {form}": written for form, written in forms.items()}
    assert raw.read_bytes() not in shown
    assert [name for name, secret in secrets.items() if secret.encode() in shown] == []


def test_what_is_secret_in_the_data_directory_is_its_owners(tmp_path: Path) -> None:
    with running_server(tmp_path / "server") as server:
        assert stat.S_IMODE(server.data.stat().st_mode) == 0o700
        for name in ("admin.token", "broker/passwords", "broker/acl", "broker/mosquitto.conf"):
            assert stat.S_IMODE((server.data / name).stat().st_mode) == 0o600, name
        assert {stat.S_IMODE(path.stat().st_mode) for path in server.data.rglob("*.key")} == {0o600}


def test_the_first_token_may_come_from_a_file_of_the_owner(tmp_path: Path) -> None:
    file = tmp_path / "admin.token"
    file.write_text("x" * 40 + "\n")
    with running_server(tmp_path / "server", admin_token_file=file) as server:
        assert not (server.data / "admin.token").exists()
        assert server.api("GET", "/whoami", token="x" * 40).json()["role"] == "admin"
        file.unlink()
        server.restart()
        assert server.api("GET", "/whoami", token="x" * 40).status_code == 200, "only the first start needs it"


@pytest.mark.parametrize("content", ["short", "two words " * 9, "", "\x1b[31m" * 20])
def test_a_file_that_holds_no_good_secret_is_named_without_its_content(tmp_path: Path, content: str) -> None:
    file = tmp_path / "admin.token"
    file.write_text(content)
    done = Server(tmp_path / "server", admin_token_file=file).attempt()
    assert done.returncode == 1
    assert "server.settings" in done.stderr
    assert str(file) in done.stderr
    assert not content or content not in done.stderr


def test_a_kill_leaves_no_password_behind_that_opens_the_next_broker(tmp_path: Path) -> None:
    with running_server(tmp_path / "server") as server:
        before = (server.data / "broker/passwords").read_text()
        server.kill()
        server.start()
        assert (server.data / "broker/passwords").read_text() != before
        assert alive(server.broker_pid)
        assert os.geteuid() == server.data.stat().st_uid
