import io
import json

import pytest
import yaml
from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.output import Column, Format, Item, Output, cell, harmless

from tests.server.cli.terminal import Screen, lines

COLUMNS = (Column("DEVICE", lambda item: item["id"]), Column("STARTS", lambda item: item["starts"], right=True))
ITEMS: list[Item] = [{"id": "gw-1", "starts": 3}, {"id": "a-longer-name", "starts": None}]
HOSTILE = "\x1b]0;owned\x07\x1b[31mred\u202egpj.exe\n\r\x9b2J\x00"


def printed(output_format: Format, stdout: io.StringIO | None = None) -> tuple[Output, io.StringIO, io.StringIO]:
    stdout, stderr = stdout or io.StringIO(), io.StringIO()
    output = Output(stdout, stderr)
    output.format = output_format
    return output, stdout, stderr


def test_a_table_is_plain_and_aligned_where_no_person_looks() -> None:
    output, stdout, _ = printed(Format.TABLE)
    output.items(ITEMS, COLUMNS, "id", "")
    assert lines(stdout) == ["DEVICE         STARTS", "gw-1           3", "a-longer-name  -"]


def test_a_table_on_a_terminal_holds_the_same_words() -> None:
    output, stdout, _ = printed(Format.TABLE, Screen())
    output.items(ITEMS, COLUMNS, "id", "")
    assert [word in stdout.getvalue() for word in ("DEVICE", "gw-1", "a-longer-name", "3")] == [True] * 4


def test_a_list_as_json_is_an_array() -> None:
    output, stdout, _ = printed(Format.JSON)
    output.items(ITEMS, COLUMNS, "id", "")
    assert json.loads(stdout.getvalue()) == ITEMS


def test_a_list_as_yaml_reads_back_the_same() -> None:
    output, stdout, _ = printed(Format.YAML)
    output.items(ITEMS, COLUMNS, "id", "")
    assert yaml.safe_load(stdout.getvalue()) == ITEMS


def test_names_come_one_a_line() -> None:
    output, stdout, _ = printed(Format.NAME)
    output.items(ITEMS, COLUMNS, "id", "")
    assert lines(stdout) == ["gw-1", "a-longer-name"]


def test_an_empty_table_says_what_to_do_and_leaves_stdout_empty() -> None:
    output, stdout, stderr = printed(Format.TABLE)
    output.items([], COLUMNS, "id", "no device yet; flash one")
    assert (stdout.getvalue(), lines(stderr)) == ("", ["no device yet; flash one"])


def test_an_empty_list_is_an_empty_array_for_scripts() -> None:
    output, stdout, stderr = printed(Format.JSON)
    output.items([], COLUMNS, "id", "no device yet; flash one")
    assert (json.loads(stdout.getvalue()), stderr.getvalue()) == ([], "")


@pytest.mark.parametrize("output_format", list(Format))
@pytest.mark.parametrize("terminal", [False, True])
def test_what_a_device_says_cannot_drive_a_terminal(output_format: Format, terminal: bool) -> None:
    output, stdout, stderr = printed(output_format, Screen() if terminal else None)
    hostile = {"id": HOSTILE, "starts": HOSTILE}
    output.items([hostile], COLUMNS, "id", "")
    output.item(hostile, [("starts", HOSTILE)], "id")
    output.line(hostile, HOSTILE, "id")
    output.done(hostile, HOSTILE, "id", HOSTILE)
    output.note(HOSTILE)
    output.problem(CommandError("server.malformed", HOSTILE, HOSTILE))
    said = stdout.getvalue() + stderr.getvalue()
    for styling in ("\x1b[1m", "\x1b[0m"):
        said = said.replace(styling, "")
    assert [character for character in said if not character.isprintable() and character != "\n"] == []


def test_markup_of_the_table_writer_is_only_text() -> None:
    output, stdout, _ = printed(Format.TABLE, Screen())
    output.items([{"id": "[red]x[/red] :smile:", "starts": 1}], COLUMNS, "id", "")
    assert "[red]x[/red] :smile:" in stdout.getvalue()


def test_words_of_other_languages_stay_as_they_are() -> None:
    assert harmless("Zürich Ωμέγα 東京") == "Zürich Ωμέγα 東京"


def test_a_cell_is_cut_and_shows_that_it_was() -> None:
    assert cell("x" * 4000, 10) == "x" * 9 + "…"


@pytest.mark.parametrize(("value", "shown"), [(None, "-"), ("", "-"), (True, "yes"), (False, "no"), (0, "0")])
def test_a_cell_shows_nothing_as_a_dash_and_truth_in_words(value: object, shown: str) -> None:
    assert cell(value) == shown


def test_an_error_is_two_lines_for_people() -> None:
    output, stdout, stderr = printed(Format.TABLE)
    output.problem(CommandError("server.unreachable", "the server is away", "start it"))
    assert lines(stderr) == ["error: the server is away (server.unreachable)", "hint: start it"]
    assert stdout.getvalue() == ""


def test_an_error_is_one_problem_object_for_scripts() -> None:
    output, stdout, stderr = printed(Format.JSON)
    output.problem(CommandError("server.unreachable", "the server is away", "start it"))
    problem = json.loads(stdout.getvalue())
    assert (problem["code"], problem["detail"], problem["hint"]) == (
        "server.unreachable",
        "the server is away",
        "start it",
    )
    assert stderr.getvalue() == ""


def test_a_stream_of_objects_is_one_json_object_a_line() -> None:
    output, stdout, _ = printed(Format.JSON)
    for item in ITEMS:
        output.line(item, "", "id")
    assert [json.loads(line) for line in lines(stdout)] == ITEMS
