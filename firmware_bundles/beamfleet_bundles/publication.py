"""Owns the rule by which a server accepts new metadata: what may follow what it holds. Pure, and signs nothing.

Compare-and-swap on every role: a new document has exactly the next version, which is the one after the held one, or,
for targets and products, after the highest that devices report: a server restored from a backup must not go back behind
them. Afterwards the whole set must stand: root, targets, and one document for each product that targets delegates to.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from types import MappingProxyType

from securesystemslib.signer import Key
from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from beamfleet_bundles import chain, keys
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.facts import Facts

ONLINE_ROLES = (Snapshot.type, Timestamp.type, chain.DIRECTOR)
"""The roles whose keys the server itself holds."""
NOTHING: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Publication:
    """What an accepted upload brings: the verified set as it will be, and the facts that are new in it."""

    chain: chain.Chain
    new: tuple[Facts, ...]


def next_version(role: str, held: int, reported: int = 0) -> int:
    """The version that the next document of an offline role must have; devices take each root after the one before."""
    return held + 1 if role == Root.type else max(held, reported) + 1


def verify_publication(
    current: Mapping[str, bytes],
    new: Mapping[str, bytes],
    online_keys: Mapping[str, Key],
    now: datetime,
    *,
    reported: Mapping[str, int] = NOTHING,
) -> Publication:
    """Holds `new` metadata (by role: `root`, `targets`, products) against the `current` set, empty at first.

    `reported`: the highest version of each role that devices have and the server believes.
    `online_keys` are the server's own, by `ONLINE_ROLES`: without them in the metadata it could not serve a device.
    Errors: `trust.conflict` (not the next version: fetch and sign again), `trust.release_changed`, `trust.incomplete`,
    `trust.online_key`, `trust.key_unreadable`, and all that `chain.verify_chain` refuses. Products in `current` are
    trusted and not checked for age: one that nobody has renewed must not keep a stolen key from being taken away.
    """
    _check_versions(current, new, reported)
    held = chain.parse_root(current[Root.type]).signed if Root.type in current else None
    whole = {**current, **new}
    if missing := [role for role in (Root.type, Targets.type) if role not in whole]:
        raise BundleError("trust.incomplete", f"there is no {missing[0]} metadata yet", "upload root and targets first")
    if Root.type in new:
        chain.verify_root(new[Root.type], held)
    products = {role: data for role, data in whole.items() if role not in (Root.type, Targets.type)}
    verified = chain.verify_chain([whole[Root.type]], whole[Targets.type], products, now, new.keys())
    check_keys(verified)
    delegated = chain.product_roles(verified.targets)
    if incomplete := set(delegated) ^ set(products):
        raise BundleError(
            "trust.incomplete",
            f"targets delegates to {', '.join(sorted(delegated)) or 'no product'}; "
            f"there is metadata of {', '.join(sorted(products)) or 'none'}",
            f"upload targets and {', '.join(sorted(incomplete))} together",
        )
    check_online_keys(verified, online_keys)
    added: list[Facts] = []
    for product in sorted(set(new) & set(products)):
        before = signed_facts(product, current)
        after = {path: facts for path, facts in verified.facts.items() if facts.custom.product == product}
        added += check_releases(product, before, after)
    return Publication(verified, tuple(added))


def _check_versions(current: Mapping[str, bytes], new: Mapping[str, bytes], reported: Mapping[str, int]) -> None:
    for role, data in new.items():
        if role == Root.type:
            version = chain.parse_root(data).signed.version
            last = chain.parse_root(current[role]).signed.version if role in current else version - 1
        else:
            version = chain.parse_targets(data, role).signed.version
            last = chain.parse_targets(current[role], role).signed.version if role in current else 0
        expected = next_version(role, last, reported.get(role, 0))
        if version != expected:
            raise BundleError(
                "trust.conflict",
                f"{role} {version} is not the next version, {expected}",
                "somebody else has published: fetch the newest metadata and sign again",
            )


def check_keys(verified: chain.Chain) -> None:
    """Error `trust.key_unreadable` unless all keys are of a kind that is used here, each under the id that is its own.

    One key under two ids would count as two people.
    """
    delegations = verified.targets.delegations
    for key in (*verified.root.keys.values(), *(delegations.keys.values() if delegations else ())):
        keys.parse_public(keys.describe(key))


def check_online_keys(verified: chain.Chain, online_keys: Mapping[str, Key]) -> None:
    """Error `trust.online_key` unless a server with these keys can serve what was verified."""
    if not verified.root.consistent_snapshot:
        raise BundleError("trust.delegation", "the root is not for consistent snapshots")
    for role in ONLINE_ROLES:
        delegator: Root | Targets = verified.targets if role == chain.DIRECTOR else verified.root
        key, named = online_keys[role], delegator.get_delegated_role(role)
        if key.keyid not in named.keyids or delegator.get_key(key.keyid) != key or named.threshold != 1:
            raise BundleError(
                "trust.online_key",
                f"the {role} role does not name this server's key",
                "sign with the public keys that the server shows",
            )


def signed_facts(product: str, current: Mapping[str, bytes]) -> dict[str, Facts]:
    """What the held metadata of `product` signs; it was verified when it came, so only read."""
    if product not in current:
        return {}
    targets = chain.parse_top_targets(current[Targets.type]).signed
    return chain.product_facts(product, chain.parse_targets(current[product], product).signed, targets)


def check_releases(product: str, before: Mapping[str, Facts], after: Mapping[str, Facts]) -> list[Facts]:
    """The facts that are new in `after`: nothing signed earlier may change, and counters and floors only rise."""
    for path, facts in before.items():
        if after.get(path) != facts:
            raise BundleError("trust.release_changed", f"{path} was published and is now changed or gone")
    ordered = sorted(after.values(), key=lambda facts: (facts.custom.counter, facts.custom.version))
    versions: dict[str, int] = {}
    lowest = 1
    for counter, group in groupby(ordered, key=lambda facts: facts.custom.counter):
        release = list(group)
        names = {facts.custom.version for facts in release}
        version = release[0].custom.version
        if len(names) > 1 or versions.setdefault(version, counter) != counter:
            raise BundleError("trust.counter", f"the counter {counter} of {product} {version} is not its own")
        if min(facts.custom.floor for facts in release) < lowest:
            raise BundleError("trust.counter", f"{product} {version} has a floor below that of an earlier release")
        lowest = max(facts.custom.floor for facts in release)
    newest = max((facts.custom.counter for facts in before.values()), default=0)
    known = {facts.custom.version for facts in before.values()}
    added = [facts for path, facts in after.items() if path not in before]
    for facts in added:
        if facts.custom.version not in known and facts.custom.counter <= newest:
            raise BundleError("trust.counter", f"{facts.path} is new, but its counter {facts.custom.counter} is not")
    return added
