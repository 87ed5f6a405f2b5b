import pytest
from beamfleet_server.cli.errors import CommandError, exit_code
from beamfleet_server.cli.labels import parse_changes, parse_labels, selector


def test_labels_may_be_repeated_or_parted_by_commas() -> None:
    assert parse_labels(["site=berlin", "rack=2,row=3"]) == {"site": "berlin", "rack": "2", "row": "3"}


def test_the_same_label_twice_is_one_label() -> None:
    assert parse_labels(["site=berlin", "site=berlin"]) == {"site": "berlin"}


def test_a_selector_is_sorted_so_that_equal_ones_look_equal() -> None:
    assert selector(["site=berlin", "rack=2"]) == selector(["rack=2,site=berlin"]) == "rack=2,site=berlin"


def test_no_labels_select_everything() -> None:
    assert selector([]) == ""


@pytest.mark.parametrize("text", ["site", "=berlin", "site=", "Site=berlin", "site=a b", "site=../x", "s\x1b[31m=x"])
def test_what_is_no_label_is_a_usage_error(text: str) -> None:
    with pytest.raises(CommandError) as refused:
        parse_labels([text])
    assert refused.value.code == "usage.label"
    assert refused.value.hint
    assert exit_code(refused.value) == 2


def test_one_label_with_two_values_is_refused() -> None:
    with pytest.raises(CommandError, match="berlin and bonn"):
        parse_labels(["site=berlin", "site=bonn"])


def test_a_final_dash_removes_a_label() -> None:
    assert parse_changes(["site=berlin", "rack-"]) == {"site": "berlin", "rack": None}


def test_a_value_may_end_with_a_dash_or_hold_one() -> None:
    assert parse_changes(["site=berlin-"]) == {"site": "berlin-"}


def test_setting_and_removing_one_label_is_refused() -> None:
    with pytest.raises(CommandError, match="both set and removed"):
        parse_changes(["site=berlin", "site-"])
