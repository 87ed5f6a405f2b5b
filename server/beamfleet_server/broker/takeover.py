"""Owns ending a device's live session: whoever connects with its client id takes the session over, and the broker
closes the old connection.

Nobody else can: the listener for this is a Unix socket in a directory of ours (0700), with a password that is made at
each start and known to nobody but this process and, hashed, to the broker. What connects here may neither publish nor
subscribe.
"""

import base64
import contextlib
import hashlib
import os
import secrets
import time
from pathlib import Path

from paho.mqtt.client import Client, ConnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

NAME = "_gate"
SOCKET = "gate.sock"
"""Relative to the broker's directory, which is where mosquitto runs: the path of a Unix socket ends at 108 bytes."""
ROUNDS = 101
"""What mosquitto itself uses; the password has 256 random bits."""
WAIT_S = 5.0


class Takeover:
    """Ends sessions, over the socket in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._password = secrets.token_urlsafe(32)

    @property
    def password_line(self) -> str:
        """The line of mosquitto's password file."""
        salt = secrets.token_bytes(12)
        digest = hashlib.pbkdf2_hmac("sha512", self._password.encode(), salt, ROUNDS)
        return f"{NAME}:$7${ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}\n"

    def end(self, device: str) -> bool:
        """End the session of a device, if it has one; False if the broker could not be asked."""
        answers: list[bool] = []

        def connected(_: Client, __: object, ___: ConnectFlags, reason: ReasonCode, ____: Properties | None) -> None:
            answers.append(not reason.is_failure)

        client = Client(
            CallbackAPIVersion.VERSION2, device, protocol=MQTTProtocolVersion.MQTTv5, transport="unix", userdata=None
        )
        client.username_pw_set(NAME, self._password)
        client.on_connect = connected
        with contextlib.suppress(OSError):
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                client.connect(f"/proc/self/fd/{directory}/{SOCKET}", 1, clean_start=True)
            finally:
                os.close(directory)
            end = time.monotonic() + WAIT_S
            while not answers and time.monotonic() < end and client.loop(0.2) == MQTTErrorCode.MQTT_ERR_SUCCESS:
                pass
            client.disconnect()
        return bool(answers) and answers[0]
