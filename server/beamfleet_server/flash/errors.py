"""What flashing itself refuses; never raises, never prints. The codes are in the README's table."""

from beamfleet_bundles.errors import BeamfleetError

from beamfleet_server.errors import ServerError

CODES = frozenset(
    {
        "flash.abilities",
        "flash.agent_failed",
        "flash.arch",
        "flash.block_device",
        "flash.clock",
        "flash.compressed",
        "flash.damaged",
        "flash.device_busy",
        "flash.device_changed",
        "flash.device_small",
        "flash.filesystem",
        "flash.image",
        "flash.image_busy",
        "flash.init",
        "flash.libc",
        "flash.library",
        "flash.mount",
        "flash.no_package",
        "flash.no_root",
        "flash.not_permitted",
        "flash.other_device",
        "flash.packager",
        "flash.partition",
        "flash.partition_table",
        "flash.python",
        "flash.read_only",
        "flash.running",
        "flash.space",
        "flash.system_disk",
        "flash.tool",
        "flash.verify_failed",
        "flash.write_failed",
    }
)
"""Every code of this package, those of the checks included."""


class FlashError(ServerError):
    """A target is not fit, or something failed while it was flashed; `code` is one of `CODES`."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        if code not in CODES:
            raise KeyError(code)
        BeamfleetError.__init__(self, code, message, hint)
