"""A plan: metadata that people shall sign, on its way between them as one file on a stick.

Pure but for `read` and `write`: no key, no server, no clock. A plan carries what it builds on (every root, the targets,
the products), so that whoever signs needs nothing else and sees in words what would change:

    {"beamfleet_plan": 1, "title": ..., "server": URL, "recovers": bool,
     "held": {"roots": [TEXT, ...], "targets": TEXT or "", "products": {NAME: TEXT}},
     "documents": {"root": TEXT, "targets": TEXT, NAME: TEXT}}

TEXT is a metadata document as it would be served. Signatures gather in `documents`; copies that were signed apart are
put together again by `merge`. What does not hold, from the first root downwards, is refused before anybody signs it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from beamfleet_bundles import chain, drafts, durable, keys
from beamfleet_bundles.errors import BundleError
from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Metadata, Root, Targets

from beamfleet_server.cli.errors import CommandError

FORMAT = 1
MAX_PLAN = 64 << 20
_DAMAGED = "copy the file again, or make a new plan"


@dataclass(frozen=True, slots=True)
class Held:
    """What a plan builds on: all roots, oldest first, the targets, and products by name; empty at the beginning."""

    roots: tuple[bytes, ...] = ()
    targets: bytes = b""
    products: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def root(self) -> Root | None:
        """The newest root, None at the beginning."""
        return chain.parse_root(self.roots[-1]).signed if self.roots else None

    @property
    def top(self) -> Targets | None:
        """The top targets, None at the beginning."""
        return chain.parse_top_targets(self.targets).signed if self.targets else None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Signatures that a document needs: `threshold` of `keys`; `signed` are those of them that are there and hold."""

    document: str
    by: str
    keys: tuple[Key, ...]
    threshold: int
    signed: frozenset[str]

    @property
    def missing(self) -> int:
        """How many more it takes."""
        return max(0, self.threshold - len(self.signed))

    @property
    def open(self) -> tuple[Key, ...]:
        """Whoever may sign and has not."""
        return tuple(key for key in self.keys if key.keyid not in self.signed)


@dataclass(frozen=True, slots=True)
class Plan:
    """`documents` by role: `root`, `targets`, products. `recovers`: the server has lost what `held` is."""

    title: str
    server: str
    held: Held
    documents: Mapping[str, bytes]
    recovers: bool = False

    @property
    def root(self) -> Root:
        """The root that will be trusted: the plan's, else the newest that it builds on."""
        return chain.parse_root(self.documents.get(Root.type) or self.held.roots[-1]).signed

    @property
    def targets(self) -> Targets:
        """The top targets that will be trusted."""
        return chain.parse_top_targets(self.documents.get(Targets.type) or self.held.targets).signed

    @property
    def wanted(self) -> tuple[Wanted, ...]:
        """What each document needs, in the order of trust."""
        rows = []
        for name, data in self.documents.items():
            if name == Root.type:
                if before := self.held.root:
                    rows.append(wanted(name, f"root {before.version}", before, data))
                rows.append(wanted(name, f"root {self.root.version}", self.root, data))
            elif name == Targets.type:
                rows.append(wanted(name, f"root {self.root.version}", self.root, data))
            else:
                rows.append(wanted(name, f"targets {self.targets.version}", self.targets, data))
        return tuple(rows)

    @property
    def complete(self) -> bool:
        """True when nobody needs to sign any more."""
        return not any(row.missing for row in self.wanted)

    def check(self) -> None:
        """What a plan builds on must hold by itself, and each document must follow it; errors `plan.*`, `trust.*`."""
        root = self._check_held()
        if not self.documents:
            raise _malformed("it has no document")
        for name, data in self.documents.items():
            match name:
                case Root.type:
                    _follows(name, chain.parse_root(data).signed.version, root.version if root else 0, exact=True)
                case Targets.type:
                    before = self.held.top
                    _follows(name, chain.parse_top_targets(data).signed.version, before.version if before else 0)
                    chain.check_targets(chain.parse_top_targets(data).signed)
                case _:
                    self._check_product(name, data)
        self._check_keys()

    def sign(self, signer: Signer) -> "Plan":
        """The plan with this signer's signature wherever it is wanted; `plan.not_wanted` where it is nowhere."""
        keyid = signer.public_key.keyid
        rows = [row for row in self.wanted if any(key.keyid == keyid for key in row.keys)]
        if not rows:
            raise CommandError(
                "plan.not_wanted",
                f"no document of the plan can be signed by {show_key(signer.public_key)}",
                "`beamfleet keys show PLAN` tells whose signatures are missing",
            )
        documents = dict(self.documents)
        for name in {row.document for row in rows if keyid not in row.signed}:
            documents[name] = drafts.signed(documents[name], signer)
        return replace(self, documents=documents)

    def write(self, path: Path) -> None:
        """Write the plan to a file, whole or not at all."""
        held = self.held
        durable.replace(
            path,
            json.dumps(
                {
                    "beamfleet_plan": FORMAT,
                    "title": self.title,
                    "server": self.server,
                    "recovers": self.recovers,
                    "held": {
                        "roots": [root.decode() for root in held.roots],
                        "targets": held.targets.decode(),
                        "products": {name: data.decode() for name, data in held.products.items()},
                    },
                    "documents": {name: data.decode() for name, data in self.documents.items()},
                },
                indent=1,
            ).encode()
            + b"\n",
        )

    def _check_keys(self) -> None:
        """Every role must have keys that are what their ids say, and enough of them."""
        roles = drafts.root_roles(self.root)
        top = self.targets
        names = (top.delegations and top.delegations.roles) or {}
        for name, role in {**roles, **{name: drafts.role_keys(top, name) for name in names}}.items():
            for key in role.keys:
                keys.parse_public(keys.describe(key))
            if not 0 < role.threshold <= len({key.keyid for key in role.keys}):
                raise _malformed(f"{name} needs {role.threshold} signatures of {len(role.keys)} keys")

    def _check_held(self) -> Root | None:
        root = None
        for data in self.held.roots:
            root = chain.verify_root(data, root)
        if root is None or not self.held.targets:
            if self.held.roots or self.held.targets or self.held.products:
                raise _malformed("what it builds on has a root or targets, but not both")
            if not {Root.type, Targets.type} <= self.documents.keys():
                raise _malformed("the beginning is a root and targets")
            return None
        if self.held.roots and chain.parse_root(self.held.roots[0]).signed.version != 1:
            raise _malformed("the roots that it builds on do not begin with the first")
        top = chain.verify_targets(self.held.targets, root)
        for name, data in self.held.products.items():
            chain.product_facts(name, chain.verify_product(data, name, top), top)
        return root

    def _check_product(self, name: str, data: bytes) -> None:
        """A plan changes who signs for a product and for how long it is good, never what is released."""
        after = chain.parse_targets(data, name).signed
        if name not in chain.product_roles(self.targets):
            raise _malformed(f"nobody delegates to {name}")
        before = chain.parse_targets(self.held.products[name], name).signed if name in self.held.products else None
        _follows(name, after.version, before.version if before else 0)
        if after.targets != (before.targets if before else {}) or after.delegations is not None:
            raise _malformed(f"it would change the releases of {name}")


def read(path: Path) -> Plan:
    """The plan in a file, checked; errors `plan.malformed`, `file.unreadable`, `trust.*`."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_PLAN + 1)
    except OSError as error:
        raise CommandError("file.unreadable", f"cannot read {path}: {error.strerror}", "check the path") from error
    try:
        plan = _parse(json.loads(content[: MAX_PLAN + 1]))
    except (ValueError, RecursionError):
        raise CommandError("plan.malformed", f"{path} is not a plan", _DAMAGED) from None
    try:
        plan.check()
    except BundleError as error:
        raise CommandError("plan.malformed", f"{path} does not hold: {error.message}", _DAMAGED) from error
    return plan


def merge(plans: Sequence[Plan]) -> Plan:
    """One plan with the signatures of all copies; `plan.different` unless they are copies of one plan."""
    first = plans[0]
    documents = {name: Metadata[Any].from_bytes(data) for name, data in first.documents.items()}
    for other in plans[1:]:
        if other.held != first.held or other.documents.keys() != documents.keys():
            raise _different()
        for name, data in other.documents.items():
            copy: Metadata[Any] = Metadata.from_bytes(data)
            if copy.signed_bytes != documents[name].signed_bytes:
                raise _different()
            documents[name].signatures |= copy.signatures
    return replace(first, documents={name: document.to_bytes() for name, document in documents.items()})


def show_key(key: Key) -> str:
    """A key for people: the name of its holder and the beginning of its id."""
    return f"{keys.name_of(key)} ({key.keyid[:8]})" if keys.name_of(key) else key.keyid[:8]


def show_missing(plan: Plan) -> list[str]:
    """Who must still sign, one line for each document and root that asks for it."""
    return [f"{row.document} needs {show_wanted(row)}" for row in plan.wanted if row.missing]


def show_wanted(row: Wanted) -> str:
    """What is missing, and who may give it."""
    who = " or ".join(show_key(key) for key in row.open)
    return f"{row.missing} more signature{'s' if row.missing > 1 else ''} by {row.by}: {who}"


def wanted(name: str, by: str, delegator: Root | Targets, data: bytes) -> Wanted:
    """What the role `name` needs by the metadata that names its keys, and what of it is in `data`."""
    document: Metadata[Any] = Metadata.from_bytes(data)
    result = delegator.get_verification_result(name, document.signed_bytes, document.signatures)
    named = tuple(result.signed.values()) + tuple(result.unsigned.values())
    order = list(delegator.get_delegated_role(name).keyids)
    known = tuple(sorted(named, key=lambda key: order.index(key.keyid)))
    return Wanted(name, by, known, result.threshold, frozenset(result.signed))


def _parse(document: Any) -> Plan:
    match document:
        case {
            "beamfleet_plan": 1,
            "title": str() as title,
            "server": str() as server,
            "recovers": bool() as recovers,
            "held": {"roots": list() as roots, "targets": str() as targets, "products": dict() as products, **rest},
            "documents": dict() as documents,
            **more,
        } if not rest and not more:
            pass
        case _:
            raise ValueError("not a plan")
    texts = [*roots, *products.values(), *documents.values()]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a document is not text")
    held = Held(
        tuple(root.encode() for root in roots),
        targets.encode(),
        {name: data.encode() for name, data in products.items()},
    )
    order = sorted(documents, key=lambda name: (name != Root.type, name != Targets.type, name))
    return Plan(title, server, held, {name: documents[name].encode() for name in order}, recovers)


def _follows(name: str, version: int, held: int, *, exact: bool = False) -> None:
    if version <= held or (exact and version != held + 1):
        raise _malformed(f"{name} {version} does not follow version {held}")


def _malformed(why: str) -> CommandError:
    return CommandError("plan.malformed", f"the plan does not hold: {why}", _DAMAGED)


def _different() -> CommandError:
    return CommandError(
        "plan.different", "these are not copies of one plan", "sign copies of the same file, or one after the other"
    )
