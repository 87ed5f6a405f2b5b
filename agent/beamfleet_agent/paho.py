"""Owns how paho-mqtt gets into the resident agent: without the HTTP client that it imports for proxies.

paho imports urllib.request, and with it http.client and the email package, 2.4 MB of memory, to look for the proxy of a
connection that session.py makes itself. An empty module stands in its place while paho is imported, then goes.
"""

import sys
from types import ModuleType

_ABSENT = "urllib.request" not in sys.modules
if _ABSENT:
    sys.modules["urllib.request"] = ModuleType("urllib.request")
try:
    from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
    from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode
finally:
    if _ABSENT:
        del sys.modules["urllib.request"]

protocol_v5 = MQTTProtocolVersion.MQTTv5

__all__ = [
    "CallbackAPIVersion", "Client", "ConnectFlags", "DisconnectFlags", "MQTTErrorCode", "MQTTMessage", "PacketTypes",
    "Properties", "ReasonCode", "protocol_v5",
]  # fmt: skip
