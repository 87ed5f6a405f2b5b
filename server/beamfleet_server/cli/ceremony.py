"""Making and publishing plans: what the server has, what shall follow it, and the way back to the server.

    held()       root after root from the pinned one, targets, products  ->  what a plan builds on
    Draft        collects changes of one plan: who may sign for what, for how long
    publish()    signatures complete? then all documents at once, by compare-and-swap; safe to repeat
    known()      the same as held(), out of the keyring: when the server has lost it

No private key is touched here.
"""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from beamfleet_bundles import chain, drafts, keys, recipients, whereabouts
from beamfleet_bundles.recipients import Recipient
from beamfleet_bundles.repository import LIFETIMES, RoleKeys
from beamfleet_bundles.whereabouts import Whereabouts
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Root, Signed, Targets

from beamfleet_server.cli.changes import show_keys
from beamfleet_server.cli.client import Client
from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.flash import addresses
from beamfleet_server.cli.plans import Held, Plan, show_key, show_missing
from beamfleet_server.cli.signing import Signing

OFFLINE = (Root.type, Targets.type)
ONLINE = ("snapshot", "timestamp")
SHORTEST_ID = 8
"""Digits of a key's id that are enough to name it."""


class Draft:
    """The documents of one plan on top of `held`; `versions` are the lowest that targets and products may get."""

    def __init__(self, held: Held, versions: Mapping[str, int], now: datetime) -> None:
        self.held, self._versions, self._now = held, versions, now
        before = held.root
        self._roles = drafts.root_roles(before) if before else {}
        self._new_root = False
        self._targets: Targets | None = None
        self._products: dict[str, Targets] = {}

    @property
    def names(self) -> list[str]:
        """Everything that has keys of its own and can be planned for: root, targets, products."""
        return [*OFFLINE, *chain.product_roles(self.targets)]

    @property
    def targets(self) -> Targets:
        """The top targets as they will be."""
        return self._targets or chain.parse_top_targets(self.held.targets).signed

    def role(self, name: str) -> RoleKeys:
        """Who will be able to sign for root, targets, an online role or a product; `plan.role` for nothing of these."""
        if name in self._roles:
            return self._roles[name]
        if name == chain.DIRECTOR or name in chain.product_roles(self.targets):
            return drafts.role_keys(self.targets, name)
        raise CommandError(
            "plan.role", f"there is no role {name}", f"root, targets or a product: {', '.join(self.names)}"
        )

    def first(self, roles: Mapping[str, RoleKeys], director: RoleKeys) -> None:
        """Say who may sign for the top roles; targets begin if there are none."""
        self._roles = {**self._roles, **roles}
        self._new_root = True
        if not self.held.targets:
            self._targets = drafts.first_targets(director, self._now)
        else:
            self._renew_targets()

    def change(self, name: str, keys: RoleKeys) -> None:
        """Let these keys, and no others, sign for a role that is there."""
        self.role(name)
        if name in self._roles:
            self._roles[name] = keys
            self._new_root = True
            if name == Targets.type:
                self._renew_targets()
        else:
            self._renew_targets()
            drafts.delegate(self.targets, name, keys)
            if name != chain.DIRECTOR:
                self._renew_product(name)

    def add_product(self, name: str, keys: RoleKeys) -> None:
        """Delegate a further product."""
        if name in chain.product_roles(self.targets):
            raise CommandError("plan.role", f"there is a product {name} already", "plan rotate changes its keys")
        self._renew_targets()
        drafts.delegate(self.targets, name, keys)
        self._products[name] = drafts.first_product(self._now)

    def tell(self, known: Whereabouts) -> None:
        """Let targets tell devices where the server is and whom to trust about it."""
        self._renew_targets()
        whereabouts.write(self.targets, known)

    def open_to(self, who: Sequence[Recipient]) -> None:
        """Let devices seal their evidence for these, and for nobody else; error `evidence.schema`."""
        self._renew_targets()
        recipients.write(self.targets, who)

    def renew(self, name: str) -> None:
        """Give a document a new life, with nothing else changed."""
        self.role(name)
        if name == Root.type:
            self._new_root = True
        elif name == Targets.type:
            self._renew_targets()
        else:
            self._renew_product(name)

    def online(self, public: Mapping[str, Key]) -> bool:
        """Name the server's own keys wherever others are named; False if that was so already."""
        changed = False
        for role in (*ONLINE, chain.DIRECTOR):
            wanted = RoleKeys((public[role],))
            if self.role(role) != wanted:
                self.change(role, wanted)
                changed = True
        return changed

    def plan(self, title: str, server: str, *, recovers: bool = False) -> Plan:
        """The plan with all documents that the changes touch, unsigned."""
        documents: dict[str, bytes] = {}
        if self._new_root:
            documents[Root.type] = drafts.unsigned(drafts.root(self._roles, self._now, self.held.root))
        if self._targets:
            documents[Targets.type] = drafts.unsigned(self._targets)
        documents |= {name: drafts.unsigned(product) for name, product in sorted(self._products.items())}
        plan = Plan(title, server, self.held, documents, recovers)
        plan.check()
        return plan

    def _renew_targets(self) -> None:
        if self._targets is None:
            self._targets = drafts.next_targets(self.held.targets, Targets.type, self._now, self._version(Targets.type))

    def _renew_product(self, name: str) -> None:
        if name not in self._products:
            before = self.held.products[name]
            self._products[name] = drafts.next_targets(before, name, self._now, self._version(name))

    def _version(self, name: str) -> int:
        before = self.held.targets if name == Targets.type else self.held.products[name]
        return max(chain.parse_targets(before, name).signed.version + 1, self._versions.get(name, 0))


class Ceremony:
    """Plans of one context. `clock` gives the time that goes into new metadata."""

    def __init__(
        self, client: Client, directory: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._client = client
        self._clock = clock
        self.signing = Signing(client, directory, clock)
        self.keyring = self.signing.keyring

    @property
    def server(self) -> str:
        """The server's URL."""
        return self._client.server

    def online_keys(self) -> dict[str, Key]:
        """The public halves of the keys that the server has made for itself, by role."""
        return {role: keys.parse_public(key) for role, key in self._client.get("/server")["online_keys"].items()}

    def initialised(self) -> bool:
        """True if the server has a root."""
        return self._client.get_bytes("/metadata/root") is not None

    def held(self) -> Held:
        """What the server has, verified from the pinned root down; errors `init.missing`, `metadata.untrusted`."""
        roots = self.signing.roots()
        targets = self.signing.fetch(Targets.type)
        top = chain.verify_targets(targets, chain.parse_root(roots[-1]).signed)
        products = {name: self.signing.fetch(name) for name in chain.product_roles(top)}
        verified = {name: chain.verify_product(data, name, top) for name, data in products.items()}
        self.keyring.keep((name, verified[name].version, data) for name, data in products.items())
        self.keyring.keep([(Targets.type, top.version, targets)])
        return Held(tuple(roots), targets, products)

    def known(self) -> Held:
        """What this operator has seen of the fleet's metadata, newest; `keys.nothing_kept` without a whole set."""
        kept = self.keyring.kept
        roots = _in_a_row(kept, Root.type)
        targets = self.keyring.newest(Targets.type)
        if not roots or targets is None:
            raise CommandError(
                "keys.nothing_kept",
                f"there is no root and targets in {self.keyring.metadata}",
                "copy that directory from an operator who has used the lost server",
            )
        products = {}
        for name in chain.product_roles(chain.parse_top_targets(targets).signed):
            newest = self.keyring.newest(name)
            if newest is None:
                raise CommandError(
                    "keys.nothing_kept",
                    f"there is no metadata of product {name} in {self.keyring.metadata}",
                    "`beamfleet keys keep FILE.bundle` takes it out of a published bundle",
                )
            products[name] = newest
        return Held(tuple(roots), targets, products)

    def due(self, held: Held) -> list[str]:
        """Root, targets and products that are past half of their life."""
        top, now = held.top, self._clock()
        signed: dict[str, Signed] = {Root.type: chain.parse_root(held.roots[-1]).signed} if held.roots else {}
        signed |= {Targets.type: top} if top else {}
        signed |= {name: chain.parse_targets(data, name).signed for name, data in held.products.items()}
        return [name for name, each in signed.items() if half_life(name, each) <= now]

    def status(self, now: datetime) -> list[dict[str, Any]]:
        """One row for each role: keys, threshold, version, expiry, state (`ok`, `due`, `expired`) and what mends it."""
        held = self.held()
        root, top = chain.parse_root(held.roots[-1]).signed, chain.parse_top_targets(held.targets).signed
        rows = [
            _row(Root.type, drafts.role_keys(root, Root.type), root, now),
            _row(Targets.type, drafts.role_keys(root, Targets.type), top, now),
        ]
        for name, data in held.products.items():
            rows.append(_row(name, drafts.role_keys(top, name), chain.parse_targets(data, name).signed, now))
        for name in ONLINE:
            served = Metadata[Any].from_bytes(self.signing.fetch(name)).signed
            rows.append(_row(name, drafts.role_keys(root, name), served, now))
        rows.append(_of_assignments(drafts.role_keys(top, chain.DIRECTOR)))
        mine = self.online_keys()
        for row in rows:
            if row["role"] in mine and mine[row["role"]].keyid not in {key["keyid"] for key in row["keys"]}:
                row |= {"state": "not this server's key", "mend": "beamfleet keys plan online"}
        return rows

    def advice(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """What a person should know beside the rows."""
        said = [f"next: {row['mend']} --out FILE, sign, publish" for row in rows if row["mend"].startswith("beamfleet")]
        root = rows[0]
        if root["threshold"] == 1:
            said.append("development keys: one key alone is enough. Not for production; `beamfleet keys plan init`")
        said += [
            f"{row['role']}: every key is needed; if one is lost, nothing can be signed any more"
            for row in rows[:2]
            if 1 < row["threshold"] == len(row["keys"])
        ]
        return said or ["nothing to do"]

    def draft(self) -> Draft:
        """A draft on top of what the server has."""
        versions = self.signing.next_versions()  # before what is held: see there
        return Draft(self.held(), versions, self._clock())

    def draft_on(self, held: Held) -> Draft:
        """A draft on top of something else than the server has."""
        return Draft(held, self.signing.next_versions(), self._clock())

    def whereabouts(
        self, servers: Sequence[Mapping[str, str]] | None, authorities: Sequence[bytes] | None
    ) -> Whereabouts:
        """What is given, else what the server says of itself."""
        said = self._client.get("/server") if servers is None or authorities is None else {}
        if servers is None:
            servers = [addresses(said["listeners"], self.server)]
        if authorities is None:
            authorities = _authorities(said)
        return whereabouts.make(list(authorities), [dict(server) for server in servers])

    def carry_out(self, plan: Plan) -> bool:
        """Sign a plan for targets with the keyring's own key and publish it, where that key alone is enough; else
        False, and people have to sign it."""
        if plan.root.roles[Targets.type].threshold > 1 or not self.keyring.path(Targets.type).exists():
            return False
        return self.publish(plan.sign(self.keyring.signer(Targets.type)))

    def publish(self, plan: Plan) -> bool:
        """Give a signed plan to the server; False if it has been published already.

        Errors `plan.unsigned` with who is missing, `plan.server`, and what the server refuses.
        """
        if missing := show_missing(plan):
            raise CommandError(
                "plan.unsigned", "; ".join(missing), "beamfleet keys sign PLAN --key FILE, by each of them"
            )
        if self._has(plan):
            self._keep(plan)
            return False
        body: dict[str, Any] = {"products": {}}
        whole = {**({Targets.type: plan.held.targets} | dict(plan.held.products) if plan.recovers else {})}
        for name, data in (whole | dict(plan.documents)).items():
            if plan.recovers and self._serves(name, data):
                continue
            (body if name in OFFLINE else body["products"])[name] = _text(data)
        if plan.recovers:
            body["roots"] = [_text(root) for root in plan.held.roots]
        self._client.post("/metadata", body)
        self._keep(plan)
        return True

    def _has(self, plan: Plan) -> bool:
        return all(self._serves(name, data) for name, data in plan.documents.items())

    def _serves(self, name: str, data: bytes) -> bool:
        served = self._client.get_bytes(f"/metadata/{name}")
        if served is None:
            return False
        return Metadata[Any].from_bytes(served).signed_bytes == Metadata[Any].from_bytes(data).signed_bytes

    def _keep(self, plan: Plan) -> None:
        """Pin what is trusted from now on; what the server serves counts, for merged signatures may differ."""
        if plan.held.roots and self.keyring.pinned() is None:
            self.keyring.pin(plan.held.roots[-1])
        if self.keyring.pinned() is None and Root.type in plan.documents:
            self.keyring.pin(plan.documents[Root.type])
        self.held()


def _row(role: str, allowed: RoleKeys, signed: Signed, now: datetime) -> dict[str, Any]:
    left = int((signed.expires - now).total_seconds())
    state = "expired" if left <= 0 else "due" if half_life(role, signed) <= now else "ok"
    mend = "" if state == "ok" else "the server renews it; see `beamfleet health`" if role in ONLINE else ""
    return {
        "role": role,
        "version": signed.version,
        "keys": [{"keyid": key.keyid, "name": keys.name_of(key)} for key in allowed.keys],
        "threshold": allowed.threshold,
        "signed_by": "the server" if role in ONLINE else show_keys(allowed),
        "expires": f"{signed.expires:%Y-%m-%dT%H:%M:%SZ}",
        "half_life": f"{half_life(role, signed):%Y-%m-%dT%H:%M:%SZ}",
        "left_s": left,
        "state": state,
        "mend": mend or ("" if state == "ok" else f"beamfleet keys plan renew {role}"),
    }


def _of_assignments(director: RoleKeys) -> dict[str, Any]:
    return {
        "role": chain.DIRECTOR,
        "version": None,
        "keys": [{"keyid": key.keyid, "name": ""} for key in director.keys],
        "threshold": director.threshold,
        "signed_by": "the server",
        "expires": None,
        "half_life": None,
        "left_s": None,
        "state": "ok",
        "mend": "",
    }


def half_life(role: str, signed: Signed) -> datetime:
    """When half of the life of a document of root, targets, a product, snapshot or timestamp is over."""
    return signed.expires - LIFETIMES.get(role, LIFETIMES["product"]) / 2


def find(draft: Draft, word: str) -> list[str]:
    """The roles with offline keys for which a key may sign; `plan.key` if it is nobody's."""
    found = []
    for name in draft.names:
        try:
            select(draft.role(name), [word])
        except CommandError:
            continue
        found.append(name)
    if not found:
        raise CommandError("plan.key", f"{word} is no key of {', '.join(draft.names)}", "`beamfleet keys status`")
    return found


def select(role: RoleKeys, words: Iterable[str]) -> list[Key]:
    """The keys of a role that people mean by a name, the beginning of an id, or a FILE.pub; `plan.key` if not one."""
    chosen = []
    for word in words:
        wanted = keys.read_public(Path(word)).keyid if word.endswith(".pub") else word
        fitting = [key for key in role.keys if keys.name_of(key) == wanted or _begins(key, wanted)]
        if len(fitting) != 1:
            named = ", ".join(map(show_key, role.keys))
            raise CommandError(
                "plan.key", f"{word} means {len(fitting) or 'none'} of the keys {named}", "its name, or 8 digits of it"
            )
        chosen += fitting
    return chosen


def changed(role: RoleKeys, remove: Sequence[Key], add: Sequence[Key], threshold: int | None, name: str) -> RoleKeys:
    """A role with some keys gone and others added, in order; `plan.threshold` if too few would be left."""
    gone = {key.keyid for key in remove}
    left = [key for key in role.keys if key.keyid not in gone]
    known = {key.keyid for key in left}
    return checked(
        RoleKeys((*left, *(key for key in add if key.keyid not in known)), threshold or role.threshold), name
    )


def checked(role: RoleKeys, name: str) -> RoleKeys:
    """`role` if it can be signed for; errors `plan.threshold`, `plan.key`."""
    if len({key.keyid for key in role.keys}) < len(role.keys):
        raise CommandError("plan.key", f"a key is named twice for {name}", "name each person's key once")
    if not 0 < role.threshold <= len(role.keys):
        raise CommandError(
            "plan.threshold",
            f"{name} would need {role.threshold} signatures of {len(role.keys)} key{'s' * (len(role.keys) != 1)}",
            "add a key (--add FILE.pub), or say another --threshold",
        )
    return role


def _begins(key: Key, word: str) -> bool:
    return len(word) >= SHORTEST_ID and key.keyid.startswith(word)


def _in_a_row(kept: Mapping[tuple[str, int], Path], role: str) -> list[bytes]:
    """Version 1 of a role and those that follow it without a gap."""
    found: list[bytes] = []
    while path := kept.get((role, len(found) + 1)):
        found.append(path.read_bytes())
    return found


def _authorities(said: Mapping[str, Any]) -> list[bytes]:
    """The authorities that devices shall trust: the active one first, then the other trusted ones."""
    listed = said.get("authorities")
    if not listed:
        return [said["fleet_ca"].encode()]
    order = sorted(listed, key=lambda each: each["state"] != "active")
    return [each["pem"].encode() for each in order if each["state"] in {"active", "trusted"}]


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
