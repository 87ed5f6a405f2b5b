"""`python -m beamfleet_agent`: the same as the command `beamfleet-agent`."""

import sys

from beamfleet_agent.cli import main

sys.exit(main())
