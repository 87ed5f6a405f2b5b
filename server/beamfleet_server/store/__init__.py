"""The store: the only place that knows SQLAlchemy. One object per noun; all of them stand on one `Database`."""

from pathlib import Path

from beamfleet_server.clock import Clock, wall_clock
from beamfleet_server.store.advancing import Advancing
from beamfleet_server.store.approvals import Approvals
from beamfleet_server.store.assignments import Assignments, Sign
from beamfleet_server.store.audit import Audit
from beamfleet_server.store.bundles import Bundles
from beamfleet_server.store.database import Database
from beamfleet_server.store.devices import Devices
from beamfleet_server.store.enrolment import Enrolment
from beamfleet_server.store.events import Events
from beamfleet_server.store.facts import Facts
from beamfleet_server.store.gate import Gatekeeping
from beamfleet_server.store.metadata import MetadataStore
from beamfleet_server.store.operators import Operators
from beamfleet_server.store.reports import Reports
from beamfleet_server.store.rollouts import Rollouts
from beamfleet_server.store.sessions import Sessions


class Store:
    """Everything that is kept in the database file at `path`; `sign` makes assignments when a rollout offers
    something, `clock` dates the audit."""

    def __init__(self, path: Path, sign: Sign, clock: Clock = wall_clock) -> None:
        self.database = Database(path)
        self.audit = Audit(self.database, clock)
        self.facts = Facts(self.database)
        self.gate = Gatekeeping(self.database)
        self.operators = Operators(self.database)
        self.sessions = Sessions(self.database)
        self.enrolment = Enrolment(self.database)
        self.devices = Devices(self.database)
        self.reports = Reports(self.database)
        self.metadata = MetadataStore(self.database)
        self.bundles = Bundles(self.database)
        self.assignments = Assignments(self.database)
        self.rollouts = Rollouts(self.database)
        self.advancing = Advancing(self.database, sign)
        self.approvals = Approvals(self.database, self.advancing)
        self.events = Events(self.database)

    def open(self) -> None:
        """Bring the schema up to date and begin to take changes."""
        self.database.open()

    def close(self) -> None:
        """Finish what is queued."""
        self.database.close()
