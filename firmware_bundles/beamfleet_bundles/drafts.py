"""Owns drafts: the next versions of root, targets and products that nobody has signed yet. Pure, and proves nothing.

`repository` makes and signs where the keys are at hand; here a document is made in one place and signed in others. A
draft is python-tuf's object; `unsigned` gives its bytes, to which signatures are added one by one.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Role, Root, Targets

from beamfleet_bundles import chain
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.repository import LIFETIMES, RoleKeys


def root(roles: Mapping[str, RoleKeys], now: datetime, previous: Root | None = None) -> Root:
    """The root after `previous`, or the first one, naming the keys of root, targets, snapshot and timestamp."""
    return Root(
        version=1 if previous is None else previous.version + 1,
        expires=now + LIFETIMES["root"],
        keys={key.keyid: key for role in roles.values() for key in role.keys},
        roles={name: Role([key.keyid for key in role.keys], role.threshold) for name, role in roles.items()},
        consistent_snapshot=True,
    )


def root_roles(previous: Root) -> dict[str, RoleKeys]:
    """Who may sign for each role that `previous` names."""
    return {name: role_keys(previous, name) for name in previous.roles}


def role_keys(delegator: Root | Targets, name: str) -> RoleKeys:
    """Who may sign for the role `name` by root or targets metadata; error `trust.inconsistent` if a key is missing."""
    with chain.translated(f"the keys of {name}"):
        role = delegator.get_delegated_role(name)
        return RoleKeys(tuple(delegator.get_key(keyid) for keyid in role.keyids), role.threshold)


def first_targets(director: RoleKeys, now: datetime) -> Targets:
    """The first top targets metadata: it delegates to the director alone."""
    targets = Targets(expires=now + LIFETIMES["targets"], delegations=Delegations({}, {}))
    delegate(targets, chain.DIRECTOR, director)
    return targets


def first_product(now: datetime) -> Targets:
    """The first metadata of a product, without any release."""
    return Targets(expires=now + LIFETIMES["product"])


def next_targets(previous: bytes, role: str, now: datetime, version: int) -> Targets:
    """The metadata `version` of targets or of a product: as `previous`, good for a whole life from `now`."""
    targets = chain.parse_targets(previous, role).signed
    targets.version = version
    targets.expires = now + LIFETIMES["targets" if role == Targets.type else "product"]
    return targets


def delegate(targets: Targets, name: str, keys: RoleKeys) -> None:
    """Makes `targets` let these keys, and no others, speak for the director or a product."""
    if targets.delegations is None or targets.delegations.roles is None:
        raise BundleError("trust.delegation", "the top targets metadata delegates to nobody")
    paths = chain.DIRECTOR_PATHS if name == chain.DIRECTOR else [f"{name}/*/*/*"]
    roles = targets.delegations.roles
    keyids = [key.keyid for key in keys.keys]
    roles[name] = DelegatedRole(name, keyids, keys.threshold, terminating=True, paths=list(paths))
    known = targets.delegations.keys | {key.keyid: key for key in keys.keys}
    used = {keyid for role in roles.values() for keyid in role.keyids}
    targets.delegations.keys = {keyid: key for keyid, key in known.items() if keyid in used}


def unsigned(draft: Root | Targets) -> bytes:
    """The bytes of `draft` without any signature."""
    with chain.translated(f"a draft of {draft.type}"):
        return Metadata[Any](draft).to_bytes()


def signed(data: bytes, signer: Signer) -> bytes:
    """`data` with the signature of `signer` beside those that it has."""
    with chain.translated("a draft"):
        document: Metadata[Any] = Metadata.from_bytes(data)
        document.sign(signer, append=True)
        return document.to_bytes()
