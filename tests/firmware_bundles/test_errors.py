import ast
import pickle
import re
from pathlib import Path

from beamfleet_bundles.errors import BeamfleetError, BundleError

from tests.repo.tree import DISTRIBUTIONS, package_modules

PACKAGE = DISTRIBUTIONS["beamfleet-bundles"]
TABLE = PACKAGE.parent / "ERRORS.md"
CODE = re.compile(r"(archive|bundle|canonical|launch|manifest|name|pack|release)\.[a-z_]+")


def codes_raised() -> dict[str, set[Path]]:
    """Every code of these families that a module gives to an error, with the modules."""
    found: dict[str, set[Path]] = {}
    for path in package_modules():
        if path.is_relative_to(PACKAGE):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("Error"):
                    match node.args[:1]:
                        case [ast.Constant(value=str(code))] if CODE.fullmatch(code):
                            found.setdefault(code, set()).add(path)
    return found


def codes_listed() -> list[str]:
    return re.findall(r"^\| `([a-z]+\.[a-z_]+)` \|", TABLE.read_text(), re.MULTILINE)


def test_every_code_is_in_the_table_and_every_row_is_raised_somewhere() -> None:
    assert sorted(codes_listed()) == sorted(codes_raised())


def test_the_table_is_sorted_and_has_no_row_twice() -> None:
    listed = codes_listed()
    assert listed == sorted(set(listed))


def test_an_error_says_what_was_wrong_under_its_code_and_how_to_mend_it() -> None:
    error = BundleError("bundle.altered", "it is damaged", "fetch it again")
    assert isinstance(error, BeamfleetError)
    assert str(error) == "it is damaged (bundle.altered)"
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 # our own bytes
    assert (copy.code, copy.message, copy.hint) == ("bundle.altered", "it is damaged", "fetch it again")


def test_what_somebody_hostile_wrote_stands_in_a_message_as_one_harmless_line() -> None:
    error = BundleError("bundle.malformed", "no \x1b[2J entry\r\n\u202e \ud800 ü")
    assert error.message == r"no \x1b[2J entry\r\n\u202e \ud800 ü"
