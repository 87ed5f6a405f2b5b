"""Wiping a root: what is the device's own goes, also what it was given elsewhere; nothing outside the root."""

from pathlib import Path

from beamfleet_server.flash.removal import wipe


def test_files_that_setup_laid_down_elsewhere_are_wiped_and_no_link_leads_out(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "etc/beamfleet", root / "etc/wifi", root / "var/lib/beamfleet/identity", outside):
        folder.mkdir(parents=True)
    for place in (root / "etc/wifi/psk", root / "etc/kept", outside / "theirs"):
        place.write_text("secret")
    (root / "srv").symlink_to(outside)
    (root / "etc/wifi/link").symlink_to(outside / "theirs")
    lines = [
        "/etc/wifi/psk",
        "/etc/wifi/link",
        "/srv/theirs",
        "/../outside/theirs",
        "/etc/gone",
        "/etc/wifi/..",
        "etc/kept",
    ]
    (root / "etc/beamfleet/given").write_text("\n".join(lines))
    told = wipe(root)
    assert told[0] == "2 files that it was given are wiped"
    assert (outside / "theirs").read_text() == (root / "etc/kept").read_text() == "secret"
    assert sorted(path.name for path in (root / "etc").iterdir()) == ["kept", "wifi"]
    assert list((root / "etc/wifi").iterdir()) == []
    assert not (root / "var/lib/beamfleet").exists()
