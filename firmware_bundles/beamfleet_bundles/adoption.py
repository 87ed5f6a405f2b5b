"""Owns the rule by which a server takes back signed metadata that its devices have and it has lost. Pure.

A server that was restored from a backup is behind its devices: they refuse what it serves, because they have seen
later versions. What they keep is signed offline, so it does not matter who hands it in: it is verified from the root
that the server holds, and only what is newer counts. Snapshot and timestamp are not taken back; the server signs its
own.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from securesystemslib.signer import Key
from tuf.api.metadata import Root, Targets

from beamfleet_bundles import chain
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.publication import check_keys, check_online_keys, check_releases, signed_facts

MAX_DOCUMENTS = 300


@dataclass(frozen=True, slots=True)
class Adoption:
    """What an offer brings: the verified set as it will be, and what of it is new to the server."""

    chain: chain.Chain
    roots: tuple[bytes, ...]
    """In order, each following the one before, the first one following the root that is held."""
    documents: Mapping[str, bytes]
    """Targets and products, by role."""

    @property
    def names(self) -> list[str]:
        """What is new, such as `targets 7`."""
        first = self.chain.root.version - len(self.roots) + 1
        versions = {**self.chain.products, Targets.type: self.chain.targets}
        roots = [f"{Root.type} {first + number}" for number in range(len(self.roots))]
        return roots + [f"{role} {versions[role].version}" for role in sorted(self.documents)]


def verify_offer(
    current: Mapping[str, bytes],
    offered: Mapping[str, bytes],
    online_keys: Mapping[str, Key],
    now: datetime,
    fresh: Collection[str] | None = None,
) -> Adoption:
    """Holds what a device offers (`N.root`, `targets`, products by role) against the `current` set.

    What is not newer is not looked at. `fresh` as in `chain.verify_chain`. Errors: `trust.incomplete` (nothing is held,
    or a product is missing), `trust.release_changed` (releases that are held would go: two histories, sign the product
    again above both), `trust.online_key` (the offered root or targets name another server's keys: this one was
    replaced), and all that `chain.verify_chain` refuses.
    """
    if missing := [role for role in (Root.type, Targets.type) if role not in current]:
        raise BundleError("trust.incomplete", f"there is no {missing[0]} metadata yet", "run: beamfleet init")
    if len(offered) > MAX_DOCUMENTS:
        raise BundleError("trust.too_large", f"{len(offered)} documents are offered; at most {MAX_DOCUMENTS} are read")
    roots = _following(current[Root.type], offered)
    root = roots[-1] if roots else current[Root.type]
    new = {Targets.type: offered[Targets.type]} if _is_newer(Targets.type, current, offered) else {}
    targets = new.get(Targets.type, current[Targets.type])
    delegated = chain.product_roles(chain.verify_targets(targets, chain.parse_root(root).signed))
    new |= {product: offered[product] for product in sorted(delegated) if _is_newer(product, current, offered)}
    products = {product: new.get(product) or current.get(product, b"") for product in delegated}
    if gone := [role for role, data in products.items() if not data]:
        raise BundleError("trust.incomplete", f"there is no metadata of {gone[0]}", "offer it as well")
    verified = chain.verify_chain([root], targets, products, now, fresh)
    check_keys(verified)
    check_online_keys(verified, online_keys)
    for product in set(new) & set(products):
        after = {path: facts for path, facts in verified.facts.items() if facts.custom.product == product}
        check_releases(product, signed_facts(product, current), after)
    return Adoption(verified, tuple(roots), new)


def verify_restoration(
    current: Mapping[str, bytes], offered: Mapping[str, bytes], online_keys: Mapping[str, Key], now: datetime
) -> Adoption:
    """Holds what an operator gives to a server that has lost its metadata: as `verify_offer`, but with nothing held
    the first root is taken at the operator's word. Products may be expired; they are renewed afterwards.
    """
    anchor = f"1.{Root.type}"
    if Root.type in current:
        return verify_offer(current, offered, online_keys, now, fresh=())
    if missing := [name for name in (anchor, Targets.type) if name not in offered]:
        raise BundleError("trust.incomplete", f"there is no {missing[0]}", "give all roots, from the first one on")
    first = offered[anchor]
    if chain.verify_root(first, None).version != 1:
        raise BundleError("trust.rollback", "the first root is not version 1", "give all roots, from the first one on")
    start = {Root.type: first, Targets.type: offered[Targets.type]}
    rest = verify_offer(start, offered, online_keys, now, fresh=())
    return Adoption(rest.chain, (first, *rest.roots), {Targets.type: offered[Targets.type], **rest.documents})


def _following(held: bytes, offered: Mapping[str, bytes]) -> list[bytes]:
    """The offered roots that follow the one that is held, in order."""
    root, roots = chain.parse_root(held).signed, []
    while (data := offered.get(f"{root.version + 1}.{Root.type}")) is not None:
        root = chain.verify_root(data, root)
        roots.append(data)
    return roots


def _is_newer(role: str, current: Mapping[str, bytes], offered: Mapping[str, bytes]) -> bool:
    if role not in offered:
        return False
    held = chain.parse_targets(current[role], role).signed.version if role in current else 0
    return chain.parse_targets(offered[role], role).signed.version > held
