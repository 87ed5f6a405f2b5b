"""What flashing itself refuses; never raises, never prints. The codes are in the README's table."""

from collections.abc import Sequence

from beamfleet_bundles.errors import BeamfleetError

from beamfleet_server.errors import ServerError
from beamfleet_server.flash.facts import Problem

CODES = frozenset(
    {
        "flash.abilities",
        "flash.agent_failed",
        "flash.agent_missing",
        "flash.arch",
        "flash.batch",
        "flash.block_device",
        "flash.clock",
        "flash.compressed",
        "flash.damaged",
        "flash.device_busy",
        "flash.device_changed",
        "flash.device_small",
        "flash.filesystem",
        "flash.hostile",
        "flash.image",
        "flash.image_busy",
        "flash.init",
        "flash.libc",
        "flash.library",
        "flash.mount",
        "flash.no_package",
        "flash.no_root",
        "flash.not_permitted",
        "flash.not_undone",
        "flash.other_device",
        "flash.package_failed",
        "flash.partition",
        "flash.partition_table",
        "flash.python",
        "flash.read_only",
        "flash.report",
        "flash.report_busy",
        "flash.remote_failed",
        "flash.running",
        "flash.space",
        "flash.ssh_address",
        "flash.ssh_denied",
        "flash.ssh_host_key",
        "flash.ssh_lost",
        "flash.ssh_unreachable",
        "flash.sudo",
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


class SetupError(ServerError):
    """What the agent's setup refused, with its own code."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        BeamfleetError.__init__(self, code, message, hint)


class UnfitError(FlashError):
    """A target has something against it: the first problem is the error, `others` stand beside it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        first, *others = problems
        super().__init__(first.code, first.message, first.hint)
        self.others = tuple(others)
