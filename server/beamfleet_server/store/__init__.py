"""The store: the only place that knows SQLAlchemy. One object per noun; all of them stand on one `Database`."""

import contextlib
from pathlib import Path

from beamfleet_server.clock import Clock, wall_clock
from beamfleet_server.database_address import DatabaseAddress
from beamfleet_server.errors import ServerError
from beamfleet_server.store.advancing import Advancing
from beamfleet_server.store.approvals import Approvals
from beamfleet_server.store.assignments import Assignments, Sign
from beamfleet_server.store.audit import Audit
from beamfleet_server.store.authorities import AuthorityStates
from beamfleet_server.store.bundles import Bundles
from beamfleet_server.store.clones import Clones
from beamfleet_server.store.database import Database
from beamfleet_server.store.deliveries import Deliveries
from beamfleet_server.store.devices import Devices
from beamfleet_server.store.enrolment import Enrolment
from beamfleet_server.store.events import Events
from beamfleet_server.store.expiries import ToldExpiries
from beamfleet_server.store.facts import Facts
from beamfleet_server.store.figures import FleetFigures
from beamfleet_server.store.gate import Gatekeeping
from beamfleet_server.store.health import Health
from beamfleet_server.store.metadata import MetadataStore
from beamfleet_server.store.operators import Operators
from beamfleet_server.store.parts import Parts
from beamfleet_server.store.quarantine import Quarantine
from beamfleet_server.store.reports import Reports
from beamfleet_server.store.requests import Requests
from beamfleet_server.store.retirement import Retirement
from beamfleet_server.store.rollouts import Rollouts
from beamfleet_server.store.samples import Samples
from beamfleet_server.store.seen import Seen
from beamfleet_server.store.sessions import Sessions
from beamfleet_server.store.silence import Silence
from beamfleet_server.store.tokens import Tokens
from beamfleet_server.store.webhooks import Webhooks


class Store:
    """Everything that is kept in the database, a file or one of PostgreSQL; `sign` makes assignments when a rollout
    offers something, `clock` dates the audit."""

    def __init__(self, place: Path | DatabaseAddress, sign: Sign, clock: Clock = wall_clock) -> None:
        self._clock = clock
        self.database = Database(place)
        self.audit = Audit(self.database, clock)
        self.facts = Facts(self.database)
        self.figures = FleetFigures(self.database)
        self.gate = Gatekeeping(self.database)
        self.operators = Operators(self.database)
        self.sessions = Sessions(self.database)
        self.authorities = AuthorityStates(self.database)
        self.tokens = Tokens(self.database)
        self.requests = Requests(self.database)
        self.enrolment = Enrolment(self.database)
        self.clones = Clones(self.database)
        self.devices = Devices(self.database, sign, clock)
        self.retirement = Retirement(self.database, sign)
        self.samples = Samples(self.database)
        self.reports = Reports(self.database, self.samples)
        self.silence = Silence(self.database)
        self.health = Health(self.database)
        self.metadata = MetadataStore(self.database)
        self.seen = Seen(self.database)
        self.expiries = ToldExpiries(self.database)
        self.bundles = Bundles(self.database)
        self.assignments = Assignments(self.database)
        self.rollouts = Rollouts(self.database)
        self.advancing = Advancing(self.database, sign)
        self.quarantine = Quarantine(self.database)
        self.parts = Parts(self.database)
        self.approvals = Approvals(self.database, self.advancing)
        self.events = Events(self.database)
        self.webhooks = Webhooks(self.database)
        self.deliveries = Deliveries(self.database)

    def open(self) -> None:
        """Bring the schema up to date and begin to take changes."""
        self.database.open()

    def close(self) -> None:
        """Keep the history's open buckets, and finish what is queued."""
        with contextlib.suppress(ServerError):  # a database that is away takes nothing, and is told of elsewhere
            self.samples.write(self._clock(), everything=True)
        self.database.close()
