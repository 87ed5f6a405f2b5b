"""The command as a whole, where no server is needed: help, usage, errors, where settings come from."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from beamfleet_server.cli import app
from beamfleet_server.cli.contexts import Contexts
from beamfleet_server.cli.errors import CODES, CommandError, exit_code

from tests.server.cli.api_script import ScriptedApi, problem
from tests.server.cli.terminal import COMMAND, Operator, child, clean_environment

SILENT = {"serve"}


def commands() -> Iterator[tuple[str, ...]]:
    """Every command as the words that call it."""

    def below(group: typer.Typer, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for command in group.registered_commands:
            yield (*words, str(command.name))
        for inner in group.registered_groups:
            assert inner.typer_instance
            yield from below(inner.typer_instance, (*words, str(inner.name)))

    return below(app, ())


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_the_help_of_every_command_shows_an_example(
    words: tuple[str, ...], operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = operator.run(*words, "--help", capsys=capsys)
    assert shown.code == 0
    examples = shown.out.partition("Examples:\n")[2].strip().splitlines()
    assert examples
    assert all("beamfleet" in line and " ".join(words) in line for line in examples)
    assert ("--output" in shown.out) == (words[0] not in SILENT)


def test_every_command_is_on_the_reference_page() -> None:
    page = (Path(__file__).parents[3] / "server" / "CLI.md").read_text()
    assert [words for words in commands() if f"`beamfleet {' '.join(words)}" not in page] == []
    assert {code for code in CODES if f"`{code}`" not in page} == set()


def test_help_loads_nothing_heavier_than_typer() -> None:
    script = (
        "import sys; from beamfleet_server.cli import main; main(['push', '--help']);"
        "print('loaded', *sorted({n.partition('.')[0] for n in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert "typer" in loaded
    assert loaded & {"requests", "rich", "tuf", "cryptography", "msgspec", "sqlalchemy", "fastapi", "yaml"} == set()


def test_without_words_the_help_is_shown_and_it_is_a_usage_error(operator: Operator) -> None:
    shown = operator.child()
    assert shown.code == 2
    assert "Commands:" in shown.out + shown.err


@pytest.mark.parametrize(
    "words", [("nonsense",), ("device", "list", "--nonsense"), ("push",), ("device", "list", "-o", "xml")]
)
def test_a_line_that_is_not_understood_exits_2(words: tuple[str, ...], operator: Operator) -> None:
    refused = operator.child(*words)
    assert (refused.code, refused.out) == (2, "")
    assert re.fullmatch(r"error: [^\n]+ \(usage\.arguments\)\nhint: see: beamfleet .*--help\n", refused.err)


@pytest.mark.parametrize(
    "words", [("nonsense",), ("device", "list", "--nonsense"), ("push",), ("logs", "a", "-n", "x")]
)
@pytest.mark.parametrize("asked", [("-o", "json"), ("-ojson",), ("--output=JSON",), ("--output", "json")])
def test_a_line_that_is_not_understood_is_one_problem_object_for_scripts(
    words: tuple[str, ...], asked: tuple[str, ...], operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = operator.run(*words, *asked, capsys=capsys)
    assert (refused.code, refused.err, refused.json["code"]) == (2, "", "usage.arguments")
    assert refused.json["hint"].startswith("see: beamfleet")


def test_the_name_of_a_group_alone_shows_its_help(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    shown = operator.run("device", capsys=capsys)
    assert (shown.code, shown.out, "Commands:" in shown.err) == (2, "", True)


@pytest.mark.parametrize("selection", [(), ("--all", "-l", "site=berlin")])
def test_a_push_without_a_clear_choice_of_devices_is_a_usage_error(
    selection: tuple[str, ...], operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = operator.run("push", "x.tar.gz", *selection, capsys=capsys)
    assert (refused.code, refused.out) == (2, "")
    assert "(usage.selector)" in refused.err
    assert "--all" in refused.err


def test_an_error_is_two_lines_on_stderr(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    refused = operator.run("device", "list", capsys=capsys)
    assert (refused.code, refused.out) == (1, "")
    assert re.fullmatch(r"error: .+ \(login\.missing\)\nhint: .+\n", refused.err)


def test_an_error_is_one_problem_object_for_scripts(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    refused = operator.run("device", "list", "-o", "json", capsys=capsys)
    assert (refused.code, refused.err) == (1, "")
    assert json.loads(refused.out)["code"] == "login.missing"


def test_usage_errors_of_our_own_exit_2_and_all_others_1() -> None:
    assert {exit_code(CommandError(code, "")) for code in CODES if code.startswith("usage.")} == {2}
    assert {exit_code(CommandError(code, "")) for code in CODES if not code.startswith("usage.")} == {1}


def test_an_undocumented_code_cannot_be_raised() -> None:
    with pytest.raises(KeyError):
        CommandError("made.up", "")


@pytest.mark.parametrize(
    ("flags", "environment", "source"),
    [
        (["--config-dir", "{}/flag"], {"BEAMFLEET_CONFIG_DIR": "{}/environment"}, "flag"),
        ([], {"BEAMFLEET_CONFIG_DIR": "{}/environment"}, "environment"),
        ([], {"HOME": "{}/default"}, "default"),
    ],
)
def test_config_tells_where_each_setting_comes_from(
    flags: list[str], environment: dict[str, str], source: str, tmp_path: Path
) -> None:
    shown = child(
        *[flag.format(tmp_path) for flag in flags], "config", "-o", "json",
        environment={key: value.format(tmp_path) for key, value in environment.items()},
    )  # fmt: skip
    (setting,) = [row for row in shown.json if row["key"] == "config_dir"]
    assert (setting["source"], setting["side"]) == (source, "client")
    assert setting["value"].startswith(str(tmp_path / source))


def test_config_still_shows_this_side_when_the_server_is_away(
    operator: Operator, api: ScriptedApi, capsys: pytest.CaptureFixture[str]
) -> None:
    Contexts(operator.directory).save("berlin", api.url, "t", api.ca.read_bytes())
    api.script(problem(401, "auth.required"))
    shown = operator.run("config", "-o", "json", capsys=capsys)
    assert shown.code == 0
    assert {row["side"] for row in shown.json} == {"client"}
    assert "auth.required" in shown.err


def test_a_secret_is_never_shown_by_config(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    Contexts(operator.directory).save("berlin", "https://127.0.0.1:1", "the-secret-token", b"PEM")
    assert "the-secret-token" not in operator.run("config", capsys=capsys).out


def test_a_file_that_cannot_be_used_is_an_error_and_no_traceback(
    operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    (operator.directory / "config.toml").mkdir(parents=True)
    refused = operator.run("device", "list", capsys=capsys)
    assert (refused.code, "config.toml" in refused.err, "(config.malformed)" in refused.err) == (1, True, True)
    assert "\nhint: " in refused.err


def test_a_file_that_cannot_be_written_is_an_error_and_no_traceback(
    operator: Operator, capsys: pytest.CaptureFixture[str], api: ScriptedApi
) -> None:
    Contexts(operator.directory).save("berlin", api.url, "t", api.ca.read_bytes())
    refused = operator.run("audit", "export", str(operator.directory / "nix" / "x"), capsys=capsys)
    assert (refused.code, "nix/x" in refused.err, "(file.failed)" in refused.err) == (1, True, True)


def test_a_reader_that_goes_away_is_no_traceback(operator: Operator) -> None:
    command = f"{COMMAND} --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=clean_environment())
    assert done.stderr == ""


def test_the_version_is_shown(operator: Operator, capsys: pytest.CaptureFixture[str]) -> None:
    assert re.fullmatch(r"beamfleet \d+\.\d+\S*\n", operator.run("--version", capsys=capsys).out)


NAMED_SHELL = {
    "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"
}  # --show-completion would look at our parent process


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_offered(shell: str) -> None:
    done = subprocess.run(
        [str(COMMAND), "--show-completion", shell],
        capture_output=True, text=True, env=clean_environment() | NAMED_SHELL,
    )  # fmt: skip
    assert done.returncode == 0
    assert "beamfleet" in done.stdout


def test_every_setting_of_the_server_has_a_flag_that_names_its_default(
    operator: Operator, capsys: pytest.CaptureFixture[str]
) -> None:
    from beamfleet_server.settings import Settings

    text = "".join(operator.run("serve", "--help", capsys=capsys).out.split())
    for name, field in Settings.model_fields.items():
        if name == "health":
            continue  # a table: it is in the file only
        flag = "--name" if name == "names" else f"--{name.replace('_', '-')}"
        assert flag in text
        if field.default not in ((), None):
            assert f"else{field.default}" in text, flag
