"""Owns how launcher and agent are started in a root that does not run, for each init that we know; idempotent.

systemd gets links, as `systemctl enable` makes them; BusyBox's init and sysvinit get lines of inittab between two
marks; OpenRC gets two services of its own.
"""

import re
from pathlib import Path

from beamfleet_bundles import durable

from beamfleet_server.flash.looking import text
from beamfleet_server.flash.paths import inside

UNITS = ("beamfleet-setup.service", "beamfleet-launcher.service", "beamfleet-agent.service")
LAUNCHER, AGENT = "/usr/lib/beamfleet/launcher", "/usr/bin/beamfleet-agent run --root /"
FIRST = "/usr/bin/beamfleet-agent setup --first-boot"
PROVISION = "/etc/beamfleet/provision.json"
_BEGIN, _END = "# beamfleet: begin", "# beamfleet: end"
_BLOCK = re.compile(f"^{_BEGIN}\n.*?^{_END}\n", re.MULTILINE | re.DOTALL)
_INITTAB = {
    "busybox": (
        f"::wait:/bin/sh -c '[ ! -e {PROVISION} ] || {FIRST}'",
        f"::respawn:{LAUNCHER}",
        f"::respawn:{AGENT}",
    ),
    "sysvinit": (
        f"bfs:2345:wait:/bin/sh -c '[ ! -e {PROVISION} ] || {FIRST}'",
        f"bfl:2345:respawn:{LAUNCHER}",
        f"bfa:2345:respawn:{AGENT}",
    ),
}
_SERVICES = {
    "beamfleet-launcher": f"""#!/sbin/openrc-run
description="beamfleet launcher, the bootloader of the Erlang/OTP release"
supervisor=supervise-daemon
command={LAUNCHER}
respawn_delay=1
respawn_max=0
start_pre() {{
    [ ! -e {PROVISION} ] || {FIRST}
    checkpath -d -m 1775 -o root:beamfleet /run/beamfleet
    checkpath -d -m 0755 /run/beamfleet/main
}}
""",
    "beamfleet-agent": """#!/sbin/openrc-run
description="beamfleet agent, which updates and watches the Erlang/OTP release"
supervisor=supervise-daemon
command=/usr/bin/beamfleet-agent
command_args="run --root /"
respawn_delay=5
respawn_max=0
depend() {
    after beamfleet-launcher
}
""",
}


def enable(root: Path, init: str) -> None:
    """Have init start launcher and agent at the next boot."""
    if init == "systemd":
        for unit in UNITS:
            if text(root, f"usr/lib/systemd/system/{unit}"):
                _link(root, f"etc/systemd/system/multi-user.target.wants/{unit}", f"/usr/lib/systemd/system/{unit}")
    elif init == "openrc":
        for name, script in _SERVICES.items():
            _write(root, f"etc/init.d/{name}", script, 0o755)
            _link(root, f"etc/runlevels/default/{name}", f"/etc/init.d/{name}")
    elif init in _INITTAB:
        block = "\n".join((_BEGIN, *_INITTAB[init], _END))
        kept = _BLOCK.sub("", text(root, "etc/inittab"))
        _write(root, "etc/inittab", f"{kept}{'' if not kept or kept.endswith(chr(10)) else chr(10)}{block}\n", 0o644)


def texts(init: str) -> dict[str, str]:
    """The same for a machine that runs: what its script lays down, by name. Nothing for systemd."""
    if init == "openrc":
        return dict(_SERVICES)
    return {"inittab": "\n".join((_BEGIN, *_INITTAB[init], _END, ""))} if init in _INITTAB else {}


def disable(root: Path) -> None:
    """Take back all of that."""
    names = [f"etc/systemd/system/multi-user.target.wants/{unit}" for unit in UNITS]
    names += [f"{folder}/{name}" for name in _SERVICES for folder in ("etc/runlevels/default", "etc/init.d")]
    for name in names:
        if (place := _place(root, name)) is not None:
            place.unlink(missing_ok=True)
    inittab = text(root, "etc/inittab")
    if _BEGIN in inittab:
        _write(root, "etc/inittab", _BLOCK.sub("", inittab), 0o644)


def _place(root: Path, path: str) -> Path | None:
    """Where a name lies, its folder's links followed and not its own."""
    folder, _, name = path.rpartition("/")
    place = inside(root, folder)
    return place / name if place else None


def _link(root: Path, path: str, target: str) -> None:
    if (place := _place(root, path)) is None:
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.is_symlink():
        place.unlink(missing_ok=True)
        place.symlink_to(target)


def _write(root: Path, path: str, content: str, mode: int) -> None:
    if (place := inside(root, path)) is None:
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    kept = place.stat().st_mode & 0o777 if place.exists() else mode
    durable.replace(place, content.encode(), kept)
