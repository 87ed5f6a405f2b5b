"""What runs on the device: launcher, resident agent and worker. Never imports the server."""

__version__ = "0.1.0"
