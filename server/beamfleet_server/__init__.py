"""What runs in the centre: the server and the operator's command line. Never imports the agent."""

__version__ = "0.1.0"
