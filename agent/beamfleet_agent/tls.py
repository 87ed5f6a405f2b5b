"""Owns TLS as the device speaks it when it may not know the time; part of the resident agent.

A device without a clock of its own, or with one that was set back, shows a time that is known to have passed. It could
never check a date. It may still have a session, and fetch what is signed: of the server's certificate only the end is
checked, against when this software was built; a wrong host, a wrong authority and a certificate that had run out before
are refused as ever. What that gives away is little. Somebody would need the key of a server of this fleet whose
certificate has run out since then, and nothing that comes over TLS is believed for that reason alone: assignments and
metadata are signed, the time as well, and commands are wishes.
"""

import json
import ssl
import time
from typing import Any, Self

from beamfleet_bundles.build_time import BUILD_TIME

from beamfleet_agent import bearings
from beamfleet_agent.paths import Paths

_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME, which the standard library has no name for."""


class Dateless(ssl.SSLContext):
    """Checks of the server's dates only that its certificate had not run out at `floor`."""

    floor = 0

    @classmethod
    def since(cls, floor: int) -> Self:
        """A context of a client whose clock cannot show less than `floor`, but does."""
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context.floor = floor
        context.verify_flags |= _NO_CHECK_TIME
        return context

    def wrap_socket(self, *args: Any, **more: Any) -> ssl.SSLSocket:
        """As ever; who shakes hands later calls `check` after that."""
        connection = super().wrap_socket(*args, **more)
        if more.get("do_handshake_on_connect", True):
            self.check(connection)
        return connection

    def check(self, connection: ssl.SSLSocket) -> None:
        """Error: ssl.SSLCertVerificationError, and the connection is closed, if the other's certificate ended before.

        To be called after the handshake.
        """
        ends = (connection.getpeercert() or {}).get("notAfter", "")
        if not isinstance(ends, str) or not ends or ssl.cert_time_to_seconds(ends) < self.floor:
            connection.close()
            raise ssl.SSLCertVerificationError(f"the server's certificate ran out at {ends or 'no time at all'}")


def session_context(paths: Paths) -> ssl.SSLContext:
    """What the session shakes hands with: this device's pair, and the authorities that it knows now. Error: OSError."""
    context = Dateless.since(BUILD_TIME) if is_behind(paths) else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(bearings.authorities(paths))
    context.load_cert_chain(paths.pair)
    return context


def is_behind(paths: Paths) -> bool:
    """Whether the clock shows a time that is known to have passed; as `beamfleet_bundles.clock`, with less to load."""
    try:
        with open(f"{paths.trust}/clock", "rb") as file:
            signed = json.loads(file.read(256))["time"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        signed = 0
    return time.time() < max(BUILD_TIME, signed if type(signed) is int else 0)
