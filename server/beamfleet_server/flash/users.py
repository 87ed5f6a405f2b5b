"""Owns the two system users of a device as lines of passwd, group and shadow, for where no systemd-sysusers is. Pure.

The agent and the release that it updates are two users, so that the one cannot touch the other.
"""

from beamfleet_server.flash.errors import FlashError

USERS = {"beamfleet": "beamfleet agent", "beamfleet-app": "beamfleet release"}
_HIGHEST, _LOWEST = 999, 100


def with_users(passwd: str, group: str, shadow: str) -> tuple[str, str, str]:
    """The three files with both users in them; what is there already stays as it is. `shadow` may be empty: it is not
    used then. `flash.no_root` where there is no sense in them."""
    for name, what in USERS.items():
        gid = next((f"{line}::".split(":")[2] for line in group.splitlines() if line.startswith(f"{name}:")), "new")
        if gid == "new":
            gid = str(_free(passwd, group))
            group = _more(group, f"{name}:x:{gid}:")
        if not (gid.isascii() and gid.isdecimal()):
            raise FlashError("flash.no_root", f"the group {name} has no number", "mend /etc/group in the root")
        if not any(line.startswith(f"{name}:") for line in passwd.splitlines()):
            uid = gid if int(gid) not in _numbers(passwd) else str(_free(passwd, group))
            passwd = _more(passwd, f"{name}:x:{uid}:{gid}:{what}:/:/sbin/nologin")
        if shadow and not any(line.startswith(f"{name}:") for line in shadow.splitlines()):
            shadow = _more(shadow, f"{name}:!*:::::::")
    return passwd, group, shadow


def _more(text: str, line: str) -> str:
    return f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{line}\n"


def _numbers(text: str) -> set[int]:
    fields = (line.split(":") for line in text.splitlines())
    return {int(parts[2]) for parts in fields if len(parts) > 2 and parts[2].isascii() and parts[2].isdecimal()}


def _free(passwd: str, group: str) -> int:
    taken = _numbers(passwd) | _numbers(group)
    free = next((number for number in range(_HIGHEST, _LOWEST, -1) if number not in taken), None)
    if free is None:
        raise FlashError("flash.no_root", "no number is free for a system user", "remove users from the root")
    return free
