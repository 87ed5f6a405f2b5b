import os
from pathlib import Path

import pytest
from beamfleet_bundles.paths import directories, link_problem, parents, path_problem
from hypothesis import given
from hypothesis import strategies as st

PART = st.sampled_from(["a", "b", "c", "..", ".", ""])
FOLDERS = {"a", "a/b", "a/b/c", "b"}
FILES = {"a/b/c/file", "a/b/file", "b/file", "file"}


@pytest.mark.parametrize(
    "path", ["a", "a/b", "lib/x-1.0/ebin/Elixir.A.beam", "ü/é", "a b", "a" * 255, "/".join(["a"] * 32)]
)
def test_a_plain_relative_path_is_good(path: str) -> None:
    assert path_problem(path) == ""


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        "..",
        "a/..",
        "../a",
        "a/../b",
        ".",
        "./a",
        "a\nb",
        "a\0",
        "a\x7f",
        "e\u0301",
        "\ud800",
        "a\u2028b",
        "a" * 256,
        "ü" * 128,
        "/".join(["a"] * 33),
        "/".join(["a" * 100] * 6),
    ],
)
def test_every_other_path_has_a_problem(path: str) -> None:
    assert path_problem(path) != ""


def test_parents_and_directories_leave_the_root_out() -> None:
    assert list(parents("a/b/c")) == ["a/b", "a"]
    assert directories(["a/b/c", "a/d", "e"]) == {"a", "a/b"}


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("a/link", "b/c"),
        ("a/link", "../b/file"),
        ("link", "a/b/../b/file"),
        ("a/b/link", "../../file"),
        ("a/link", "./b/."),
    ],
)
def test_a_link_inside_the_release_is_good(path: str, target: str) -> None:
    assert link_problem(path, {path: target}, FILES, FOLDERS) == ""


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("link", "/etc/passwd"),
        ("link", ".."),
        ("a/link", "../../b"),
        ("a/b/link", "../../../file"),
        ("link", ""),
        ("link", "."),
        ("link", "nothing"),
        ("a/link", "a\nb"),
        ("link", "x" * 513),
    ],
)
def test_a_link_out_of_the_release_or_to_nothing_has_a_problem(path: str, target: str) -> None:
    assert link_problem(path, {path: target}, FILES, FOLDERS) != ""


def test_links_through_links_and_in_circles_have_a_problem() -> None:
    up = {"a/b/up": "../..", "escape": "a/b/up/../../etc"}
    assert "through the link" in link_problem("escape", up, FILES, FOLDERS)
    assert "circle" in link_problem("x", {"x": "y", "y": "x"}, FILES, FOLDERS)
    assert link_problem("x", {"x": "y", "y": "file"}, FILES, FOLDERS) == ""
    assert link_problem("x", {"x": "y", "y": "/etc"}, FILES, FOLDERS) != ""


@given(
    st.dictionaries(st.sampled_from(["a/l", "a/b/l", "b/m", "n"]), st.lists(PART, min_size=1, max_size=6), max_size=4)
)
def test_the_kernel_goes_where_a_good_link_says_and_never_out(
    tmp_path_factory: pytest.TempPathFactory, drawn: dict[str, list[str]]
) -> None:
    links = {path: "/".join(parts) for path, parts in drawn.items()}
    top = tmp_path_factory.mktemp("tree")
    for folder in sorted(FOLDERS):
        (top / folder).mkdir()
    for file in FILES:
        (top / file).touch()
    good = {path: target for path, target in links.items() if not link_problem(path, links, FILES, FOLDERS)}
    for path, target in links.items():
        if target:
            (top / path).symlink_to(target)
    for path in good:
        real = Path(os.path.realpath(top / path))
        assert real.exists()
        assert real.is_relative_to(top)
        assert real != top
