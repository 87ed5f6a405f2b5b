"""The rules for every tracked file: nothing of the machine it was written on, no host that we do not mean to name."""

import ipaddress
import re
import socket
from pathlib import Path

from tests.repo.tree import ROOT, shown, tracked_text

URL_HOST = re.compile(r"\w+://(?:[^\s/@\"'`<>]*@)?(\[[^\]\s]*\]|[^\s/:\"'`<>()\[\]{},;\\*?#]+)")
NAMED_HOSTS = {"keepachangelog.com", "www.apache.org", "www.freedesktop.org"}


def is_private(host: str) -> bool:
    """Whether the host is an address that means nothing outside the network it is used in."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_private
    except ValueError:
        return False


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    places = [str(place) for place in (ROOT, Path.home()) if len(place.parts) > 2]
    pattern = re.compile("|".join([*map(re.escape, places), r"/(?:home|Users)/[a-z]\w*/", r"(?<![\w.}])/root/\w"]))
    assert [(shown(path), found[0]) for path, text in tracked_text() if (found := pattern.search(text))] == []


def test_no_file_names_this_machine() -> None:
    name = socket.gethostname()
    if len(name) < 8 or name in {"localhost", "beamfleet"}:
        return
    assert [shown(path) for path, text in tracked_text() if name in text] == []


def test_every_address_in_a_file_is_one_we_mean_to_name() -> None:
    foreign = {
        (shown(path), host)
        for path, text in tracked_text()
        for host in URL_HOST.findall(text)
        if "." in host
        and host not in NAMED_HOSTS
        and not is_private(host)
        and not host.endswith((".example", ".local", ".test", ".invalid"))
        and "$" not in host
    }
    assert foreign == set()
