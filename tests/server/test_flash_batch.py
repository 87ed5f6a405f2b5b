"""The manifest of a batch, its report, and the sheet of labels: what is refused where, what survives, what is shown."""

import csv
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from beamfleet_bundles.errors import BeamfleetError
from beamfleet_server.flash.batch import COLUMNS, Line, parse
from beamfleet_server.flash.batch_report import NAMES, Record, opened
from beamfleet_server.flash.label_sheet import Label, claim, fleet_of, sheet

from tests.support.refusal import refusal

FLEET = fleet_of(b"a certificate")


def lines_of(*lines: str, targets: bool = True) -> tuple[Line, ...]:
    return parse("\n".join(lines) + "\n", "devices.csv", Path("/line"), targets=targets)


def refused(*lines: str, targets: bool = True) -> str:
    """What is said of a manifest that is refused."""
    with pytest.raises(BeamfleetError) as caught:
        lines_of(*lines, targets=targets)
    assert caught.value.code == "flash.batch"
    return caught.value.message


def test_a_line_is_a_device_with_its_labels_and_paths_beside_the_manifest() -> None:
    one, two = lines_of(
        "id,serial,labels,root,ssh,env_file",
        'gw-1,SN-17,"site=berlin,rack=2",reader-1,,/etc/gw-1.env',
        "",
        "gw-2,,ring=a; site=x,,pi@10.0.0.7:2222,",
    )
    assert (one.number, one.id, one.serial, one.labels) == (2, "gw-1", "SN-17", {"site": "berlin", "rack": "2"})
    assert (one.cells["root"], one.cells["env_file"]) == ("/line/reader-1", "/etc/gw-1.env")
    assert (two.number, two.labels, two.target) == (4, {"ring": "a", "site": "x"}, "ssh pi@10.0.0.7:2222")


def test_a_spreadsheet_may_write_semicolons_and_quotes_over_several_lines() -> None:
    (one,) = lines_of("id;labels;root", '"gw-1";"site=berlin\nrack=2";reader')
    assert one.labels == {"site": "berlin", "rack": "2"}
    assert parse("id,root\r\ngw-1,x\r\n", "x", Path())[0].cells["root"] == "x"


def test_without_an_id_it_is_the_prefix_and_the_serial_number() -> None:
    (one,) = lines_of("serial,root", "SN17,x")
    assert (one.id_with("gw-"), one.key) == ("gw-sn17", "SN17")


@pytest.mark.parametrize(
    ("lines", "where"),
    [
        (("id,colour,root", "a,b,c"), "line 1: there is no column 'colour'"),
        (("id,root,id", "a,b,c"), "line 1: the column id is there twice"),
        (("labels,root", "a=b,c"), "line 1: no column says who"),
        (("id,root", "gw-1,x", "gw-2"), "line 3, column root: there are 1 cells"),
        (("id,root", "gw-1,x,y"), "line 2, column root: there are 3 cells"),
        (("id,root", "gw-1,x", ",y"), "line 3, column id: there is neither"),
        (("id,root", "../x,y"), "line 2, column id: '../x' is not a device id"),
        (("serial,root", "../x,y"), "line 2, column serial: '../x' is no serial number"),
        (("id,labels,root", "gw-1,berlin,y"), "line 2, column labels: 'berlin' is not key=value"),
        (("id,labels,root", "gw-1,a=b a=c,y"), "line 2, column labels: a is there twice"),
        (("id,labels,root", "gw-1,A b=c,y"), "line 2, column labels"),
        (("id,root", "gw-1,"), "line 2, column root: there is no target"),
        (("id,root,ssh", "gw-1,x,host"), "line 2, column ssh: one target at a time"),
        (("id,root,network", "gw-1,x,pigeon"), "line 2, column network: one of wired"),
        (("id,root,profile", "gw-1,x,loud"), "line 2, column profile: one of wired"),
        (("id,root,hardware", "gw-1,x,RPi 4"), "line 2, column hardware"),
        (("id,root", "gw-1,x", "gw-1,y"), "line 3, column id: 'gw-1' is that of line 2 already"),
        (("id,root", "gw-1,x", "gw-2,x"), "line 3, column root"),
        (("id,serial,root", "gw-1,S,x", "gw-2,S,y"), "line 3, column serial"),
        (("id,root", "gw-1,a\x1b[2J"), "line 2, column root: there are characters"),
        (("id,root", '"gw-1,x'), "line 2"),
        (("id,root",), "names no device"),
        (("",), "names no device"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_column(lines: Sequence[str], where: str) -> None:
    assert where in refused(*lines)


def test_one_image_may_be_written_to_many_cards_and_to_one_device_otherwise() -> None:
    assert len(lines_of("id,device,image", "gw-1,/dev/sdb,pi.img", "gw-2,/dev/sdc,pi.img")) == 2
    assert "column image" in refused("id,image", "gw-1,pi.img", "gw-2,pi.img")


def test_for_identities_alone_no_target_is_needed() -> None:
    assert [line.serial for line in lines_of("serial,labels", "S1,a=b", "S2,", targets=False)] == ["S1", "S2"]


# --- the report


def record_of(line: Line, state: str = "done", **more: str) -> Record:
    plain = Record("2026-01-01T00:00:00Z", line.number, line.id, "", line.target, state, "", "", "", line.digest)
    return replace(plain, **more)  # type: ignore[arg-type]


def test_what_is_done_is_known_to_the_next_run_and_what_failed_is_not(tmp_path: Path) -> None:
    path = tmp_path / "report.csv"
    one, two = lines_of("id,root", "gw-1,x", "gw-2,y")
    with opened(path) as report:
        report.append(record_of(one))
        report.append(record_of(two, "failed", code="flash.space", message='no room,\nnone "at all"'))
    with opened(path) as report:
        assert report.done(one, "gw-1") is not None
        assert report.done(two, "gw-2") is None
        report.append(record_of(two))
    with opened(path) as report:
        assert report.done(two, "gw-2") is not None
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [(row["id"], row["state"], row["message"]) for row in rows] == [
        ("gw-1", "done", ""),
        ("gw-2", "failed", 'no room, none "at all"'),
        ("gw-2", "done", ""),
    ]


def test_a_line_that_says_something_else_now_is_not_done(tmp_path: Path) -> None:
    (one,) = lines_of("id,labels,root", "gw-1,site=a,x")
    (other,) = lines_of("id,labels,root", "gw-1,site=b,x")
    with opened(tmp_path / "r") as report:
        report.append(record_of(one))
        assert report.done(other, "gw-1") is None


def test_a_line_that_makes_another_device_now_is_not_done(tmp_path: Path) -> None:
    (one,) = lines_of("serial,root", "SN-1,x")
    with opened(tmp_path / "r") as report:
        report.append(record_of(one, id=one.id_with("a-")))
        assert report.done(one, one.id_with("a-")) is not None
        assert report.done(one, one.id_with("b-")) is None


def test_wherever_a_loss_of_power_cuts_the_report_whole_lines_stay(tmp_path: Path) -> None:
    path = tmp_path / "report.csv"
    lines = lines_of("id,root", "gw-1,x", "gw-2,y", "gw-3,z")
    with opened(path) as report:
        for line in lines:
            report.append(record_of(line))
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        complete = whole[:cut].count(b"\n") - 1
        with opened(path) as report:
            assert [line.id for line in lines if report.done(line, line.id)] == ["gw-1", "gw-2", "gw-3"][
                : max(0, complete)
            ]
            if complete < 3:
                report.append(record_of(lines[-1]))
        rows = list(csv.reader(path.read_text().splitlines()))
        assert tuple(rows[0]) == NAMES
        assert all(len(row) == len(NAMES) for row in rows)


def test_one_run_at_a_time_has_the_report(tmp_path: Path) -> None:
    path = tmp_path / "report.csv"

    def again() -> None:
        with opened(path):
            pass

    with opened(path):
        assert refusal(again) == "flash.report_busy"
    again()


@pytest.mark.parametrize("content", [b"id,root\ngw-1,x\n", b"\xff\xfe\n", b",".join([b"x"] * len(NAMES)) + b"\n"])
def test_what_is_no_report_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "devices.csv"
    path.write_bytes(content)

    def open_it() -> None:
        with opened(path):
            pass

    assert refusal(open_it) == "flash.report"
    assert path.read_bytes() == content


# --- the labels


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_a_label_says_who_it_is_of_which_fleet_and_with_which_key() -> None:
    label = Label("gw-1", "SN-17", "ab" * 32, {"site": "berlin"})
    assert claim(label, FLEET) == f"beamfleet:gw-1?fleet={FLEET}&key={'ab' * 32}"
    page = Page(sheet([label, Label("gw-2")], FLEET))
    assert [attrs["data-device"] for tag, attrs in page.elements if tag == "section"] == ["gw-1", "gw-2"]
    assert len([tag for tag, _ in page.elements if tag == "svg"]) == 2
    text = " ".join(page.words)
    assert all(word in text for word in ("gw-1", "S/N SN-17", "key abab abab abab abab", "site=berlin"))


def test_the_sheet_stands_alone_and_holds_nothing_that_runs() -> None:
    text = sheet([Label("gw-1", '"><script>alert(1)</script>', "", {"site": "<b>"})], FLEET)
    page = Page(text)
    assert {tag for tag, _ in page.elements} <= {
        "html", "head", "meta", "title", "style", "body", "main", "section", "svg", "path", "div", "b", "small",
    }  # fmt: skip
    assert not any(name in attrs for _, attrs in page.elements for name in ("src", "href", "onload"))
    assert re.findall(r"https?://|@import|url\(", text) == []


def test_every_column_is_on_the_page_about_flashing() -> None:
    page = (Path(__file__).parents[2] / "server/FLASH.md").read_text()
    assert [column for column in COLUMNS if f"`{column}`" not in page] == []
