"""What `flash --ssh` makes of an address and of what a device says, and its scripts under dash and BusyBox."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from beamfleet_agent import abilities
from beamfleet_server import flash
from beamfleet_server.flash.checks import TOOLS
from beamfleet_server.flash.errors import FlashError
from beamfleet_server.flash.login import COMMAND, Login, clean
from beamfleet_server.flash.ssh_facts import parse
from hypothesis import given
from hypothesis import strategies as st

REMOTE = Path(flash.__file__).parent / "remote"
SHELLS = [pytest.param(["dash"], id="dash"), pytest.param(["busybox", "sh"], id="busybox")]


@pytest.mark.parametrize(
    ("text", "user", "host"),
    [
        ("10.0.0.7", "", "10.0.0.7"),
        ("pi@raspberry.local:2222", "pi", "raspberry.local"),
        ("[fd00::1]:22", "", "fd00::1"),
        ("root@fe80::1%eth0", "root", "fe80::1%eth0"),
    ],
)
def test_an_address_is_a_user_a_host_and_a_port(text: str, user: str, host: str) -> None:
    login = Login(text)
    assert (login.user, login.host) == (user, host)


@pytest.mark.parametrize(
    "text",
    ["", "-oProxyCommand=x", "pi@-x", "-x@host", "host:port", "a b", "pi@", "host:22:23/x", "host:65536", "host:0"],
)
def test_what_could_be_an_option_or_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(FlashError) as refused:
        Login(text)
    assert refused.value.code == "flash.ssh_address"


def test_a_program_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMAND, "no-such-ssh -F file")
    with pytest.raises(FlashError, match="no-such-ssh") as refused:
        Login("host").open()
    assert refused.value.code == "flash.tool"


def test_a_variable_that_no_shell_could_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMAND, "'unbalanced")
    with pytest.raises(FlashError, match=COMMAND) as refused:
        Login("host").open()
    assert refused.value.code == "flash.tool"


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("Host key verification failed.", "flash.ssh_host_key"),
        ("pi@host: Permission denied (publickey,password).", "flash.ssh_denied"),
        ("ssh: connect to host h port 22: No route to host", "flash.ssh_unreachable"),
        ("", "flash.ssh_unreachable"),
    ],
)
def test_what_ssh_says_becomes_a_code_and_a_remedy(monkeypatch: pytest.MonkeyPatch, said: str, code: str) -> None:
    program = f"{sys.executable} -c 'import sys; sys.exit(sys.argv[1])' '{said}'"
    monkeypatch.setenv(COMMAND, program)
    with pytest.raises(FlashError) as refused:
        Login("host").open()
    assert (refused.value.code, bool(refused.value.hint)) == (code, True)


@pytest.mark.parametrize(
    ("address", "said", "hint"),
    [
        ("pi@host:2222", "Host key verification failed.", "ssh -p 2222 pi@host"),
        ("pi@host:2222", "REMOTE HOST IDENTIFICATION HAS CHANGED", "ssh-keygen -R '[host]:2222'"),
        ("pi@host:2222", "Permission denied (publickey).", "ssh-copy-id -p 2222 pi@host"),
        ("host", "Permission denied (publickey).", "ssh-copy-id USER@host"),
        ("host:2222", "No route to host", "ssh -p 2222 host"),
    ],
)
def test_what_ssh_is_to_be_tried_with_has_user_and_port(
    monkeypatch: pytest.MonkeyPatch, address: str, said: str, hint: str
) -> None:
    monkeypatch.setenv(COMMAND, f"{sys.executable} -c 'import sys; sys.exit(sys.argv[1])' '{said}'")
    with pytest.raises(FlashError) as refused:
        Login(address).open()
    assert hint in refused.value.hint


def test_what_the_login_prints_before_is_no_fact_and_what_is_told_twice_counts_once() -> None:
    facts = parse(b"arch=toaster\nbegin=yes\narch=aarch64\narch=x86_64\npython=3.11\ntool=sh\nend=yes\n").facts
    assert (facts.arch, facts.python, facts.tools, facts.running) == ("aarch64", (3, 11), frozenset({"sh"}), True)
    assert not facts.filesystem.safe  # what is not known is not safe


def test_a_device_that_does_not_say_all_is_refused() -> None:
    with pytest.raises(FlashError) as refused:
        parse(b"begin=yes\narch=aarch64\n")
    assert refused.value.code == "flash.remote_failed"


@given(
    st.lists(
        st.tuples(st.sampled_from(["os", "device", "free_kib", "python", "tool", "clock_s"]), st.text()) | st.text()
    )
)
def test_whatever_a_device_says_facts_are_short_and_printable(lines: list[tuple[str, str] | str]) -> None:
    text = "".join(f"{line[0]}={line[1]}\n" if isinstance(line, tuple) else f"{line}\n" for line in lines) + "end=yes\n"
    facts = parse(text.encode("utf-8", "surrogatepass")).facts
    for value in (facts.os, facts.device, *facts.tools):
        assert value.isprintable()
        assert len(value) <= 256
    assert facts.free_bytes is None or facts.free_bytes >= 0
    assert clean("\x1b[31m\x07red").isprintable()


@pytest.mark.parametrize("shell", SHELLS)
def test_the_facts_of_this_machine_are_the_same_under_every_shell(shell: list[str]) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"no {shell[0]} here")
    done = subprocess.run(
        [*shell, "-s", *sorted(TOOLS)], input=(REMOTE / "facts.sh").read_bytes(), capture_output=True, check=True
    )
    facts = parse(done.stdout).facts
    assert facts.python_path
    assert facts.arch
    assert facts.libc in {"glibc", "musl"}
    assert facts.lacking == ()
    assert {"sh", "flock"} <= facts.tools
    assert facts.clock_s
    assert any(name.startswith("libc.") for name in facts.libraries)


def test_the_script_tries_the_abilities_that_the_agent_asks_for() -> None:
    tried = re.findall(r"can '(.+)' <<'E'\n(.+)\nE\n", (REMOTE / "facts.sh").read_text())
    assert dict(tried) == abilities.ABILITIES | abilities.AS_USER


@pytest.mark.parametrize("shell", SHELLS)
def test_the_transaction_can_be_read_by_every_shell(shell: list[str]) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"no {shell[0]} here")
    subprocess.run([*shell, "-n", REMOTE / "transaction.sh"], check=True)
