"""Owns the MQTT topics, `beamfleet/v1/DEVICE/APP/{up,down}/KIND`; never touches a connection.

Part of the resident agent: standard library only.
"""

from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.names import check_app, check_device

PREFIX = "beamfleet/v1"
SERVER = "_server"
"""The server's name as a client of the broker; the underscore keeps it from being a device id."""
EPOCH = f"{PREFIX}/{SERVER}/epoch"
"""Retained marker; when it is missing the broker has forgotten what was retained."""
UP_KINDS = ("state", "event", "progress", "health", "logs", "presence")
DOWN_KINDS = ("desired", "command", "ack")


def up(device: str, app: str, kind: str) -> str:
    """The topic on which `device` reports `kind`, one of `UP_KINDS`; errors `name.*`."""
    return _topic(device, app, "up", kind, UP_KINDS)


def down(device: str, app: str, kind: str) -> str:
    """The topic on which `device` is told `kind`, one of `DOWN_KINDS`; errors `name.*`."""
    return _topic(device, app, "down", kind, DOWN_KINDS)


def parse(topic: str) -> tuple[str, str, str, str]:
    """(device, app, "up" or "down", kind) of a device's topic; errors `name.*`."""
    parts = topic.split("/")
    if len(parts) != 6 or "/".join(parts[:2]) != PREFIX or parts[4] not in ("up", "down"):
        raise BundleError("name.topic", f"{topic[:80]!r} is not a topic of a device")
    device, app, direction, kind = parts[2:]
    _topic(device, app, direction, kind, UP_KINDS if direction == "up" else DOWN_KINDS)
    return device, app, direction, kind


def _topic(device: str, app: str, direction: str, kind: str, kinds: tuple[str, ...]) -> str:
    if kind not in kinds:
        raise BundleError("name.topic", f"{kind[:80]!r} is no kind of message that goes {direction}")
    return f"{PREFIX}/{check_device(device)}/{check_app(app)}/{direction}/{kind}"
