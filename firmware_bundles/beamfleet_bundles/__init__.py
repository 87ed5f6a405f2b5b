"""What crosses the network: manifests, packs, trust and messages. Imports neither the agent nor the server."""

__version__ = "0.1.0"
