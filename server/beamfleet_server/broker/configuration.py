"""Owns what mosquitto is told: its configuration and its access control list.

- The certificate's common name is the user name and the client id: a device can be nobody else
(`use_username_as_clientid`
  stands under the listener, without it one device takes over the session of another).
- The ACL names each topic. A device may write its own `up` topics and read its own `down` topics, and nothing more.
- A certificate of the revocation list is refused. The second listener, a Unix socket in our own directory, is only
there to
  end sessions (`broker.takeover`); it has a password, and no topic.
- Nothing is dropped for a limit of mosquitto's: with its defaults of 20 in flight and 1000 queued, publishers are
told that
  messages have arrived which are then lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from beamfleet_bundles import durable, topics

from beamfleet_server.broker.takeover import SOCKET
from beamfleet_server.ca import KeyPair

APPS = ("main",)
MAX_PACKET = 65_536
AUTOSAVE_S = 60
SYNC = f"{topics.PREFIX}/{topics.SERVER}/sync"
"""The server writes to itself here, to know that everything before has been delivered."""


@dataclass(frozen=True, slots=True)
class BrokerFiles:
    """Where the broker's files are."""

    directory: Path
    pair: KeyPair
    authority: Path

    @property
    def configuration(self) -> Path:
        """mosquitto.conf."""
        return self.directory / "mosquitto.conf"

    @property
    def revoked(self) -> Path:
        """The list of certificates that are refused."""
        return self.directory / "revoked.pem"

    @property
    def passwords(self) -> Path:
        """The password of the gate's own socket."""
        return self.directory / "passwords"

    @property
    def access(self) -> Path:
        """The access control list."""
        return self.directory / "acl"

    def write(self, host: str, port: int, user: str, password_line: str) -> None:
        """Write the files for a listener at host and port; mosquitto runs as `user`. The revocation list is the
        gate's."""
        durable.replace(self.passwords, password_line.encode(), 0o600)
        durable.replace(self.access, _access().encode(), 0o600)
        durable.replace(self.configuration, "\n".join(self._configuration(host, port, user)).encode() + b"\n", 0o600)

    def _configuration(self, host: str, port: int, user: str) -> Sequence[str]:
        return (
            f"user {user}",
            "per_listener_settings false",
            "allow_anonymous false",
            f"acl_file {self.access}",
            f"password_file {self.passwords}",
            "persistence true",
            f"persistence_location {self.directory}/",
            f"autosave_interval {AUTOSAVE_S}",
            "max_inflight_messages 0",
            "max_queued_messages 0",
            f"max_packet_size {MAX_PACKET}",
            "set_tcp_nodelay true",
            "sys_interval 0",
            "connection_messages false",
            "log_dest stderr",
            "log_timestamp false",
            "log_type error",
            "log_type warning",
            "log_type notice",
            f"listener {port}" if host == "::" else f"listener {port} {host}",  # it would listen to IPv6 alone
            "use_username_as_clientid true",
            "require_certificate true",
            "use_identity_as_username true",
            "tls_version tlsv1.2",
            f"cafile {self.authority}",
            f"certfile {self.pair.certificate}",
            f"keyfile {self.pair.key}",
            f"crlfile {self.revoked}",
            f"listener 0 {SOCKET}",
        )


def subscriptions() -> list[str]:
    """The topics on which the server listens to all devices."""
    return [f"{topics.PREFIX}/+/{app}/up/{kind}" for app in APPS for kind in topics.UP_KINDS]


def _access() -> str:
    server = [f"topic read {topic}" for topic in subscriptions()]
    server += [f"topic write {topics.PREFIX}/+/{app}/down/{kind}" for app in APPS for kind in topics.DOWN_KINDS]
    server += [f"topic readwrite {topics.EPOCH}", f"topic readwrite {SYNC}"]
    device = [f"pattern write {topics.PREFIX}/%u/{app}/up/{kind}" for app in APPS for kind in topics.UP_KINDS]
    device += [f"pattern read {topics.PREFIX}/%u/{app}/down/{kind}" for app in APPS for kind in topics.DOWN_KINDS]
    return "\n".join([f"user {topics.SERVER}", *server, "", *device]) + "\n"
