"""What a plan would change, in words for the person who is about to sign it. Pure.

Whatever the documents say afterwards is told as well as the difference, so that nothing can be hidden by a wrong idea
of what was there before.
"""

import hashlib
from collections.abc import Mapping

from beamfleet_bundles import chain, drafts, recipients, whereabouts
from beamfleet_bundles.repository import RoleKeys
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from securesystemslib.signer import Key
from tuf.api.metadata import Root, Signed, Targets

from beamfleet_server.cli.plans import Plan, show_key

ONLINE = {"snapshot", "timestamp", chain.DIRECTOR}


def describe(plan: Plan) -> list[str]:
    """One line for each fact, two spaces before those that belong to the line above."""
    lines = []
    for name, data in plan.documents.items():
        match name:
            case Root.type:
                lines += _root(chain.parse_root(data).signed, plan.held.root)
            case Targets.type:
                lines += _targets(chain.parse_top_targets(data).signed, plan.held.top)
            case _:
                before = plan.held.products.get(name)
                lines += _product(
                    name,
                    chain.parse_targets(data, name).signed,
                    chain.parse_targets(before, name).signed if before else None,
                )
    return lines


def show_keys(role: RoleKeys) -> str:
    """`2 of 3 keys: anna (1f3c5a70), ...`; who is alone needs no number."""
    named = ", ".join(show_key(key) for key in role.keys)
    return f"{role.threshold} of {len(role.keys)} keys: {named}" if len(role.keys) > 1 else f"key {named}"


def fingerprint(pem: str) -> str:
    """The SHA-256 of a certificate, as openssl shows it but shorter, with its subject."""
    certificate = x509.load_pem_x509_certificate(pem.encode())
    digest = hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()
    return f"{certificate.subject.rfc4514_string()} {digest[:16]}"


def _root(after: Root, before: Root | None) -> list[str]:
    roles = [
        _role(role, drafts.role_keys(after, role), drafts.role_keys(before, role) if before else None)
        for role in after.roles
    ]
    return [_heading("root", after, before), *roles, *_expiry(after)]


def _targets(after: Targets, before: Targets | None) -> list[str]:
    lines = [_heading("targets", after, before)]
    now, then = _delegations(after), _delegations(before) if before else {}
    for role, keys in now.items():
        lines.append(_role(role if role == chain.DIRECTOR else f"product {role}", keys, then.get(role)))
    lines += [f"  product {role}: taken away" for role in then.keys() - now.keys()]
    told, told_before = whereabouts.read(after), whereabouts.read(before) if before else whereabouts.Whereabouts()
    mark = " (unchanged)" if told == told_before else ""
    authorities = ", ".join(map(fingerprint, told.authorities)) or "the one they were flashed with"
    servers = ", ".join(server.api for server in told.servers) or "where they were flashed for"
    lines += [
        f"  devices trust the authorities: {authorities}{mark}",
        f"  devices look for the server at: {servers}{mark}",
    ]
    opened, opened_before = recipients.read(after), recipients.read(before) if before else ()
    if opened or opened_before:
        named = ", ".join(f"{each.name} ({each.id[:8]})" for each in opened) or "nobody: devices hand in none"
        lines.append(f"  devices seal evidence for: {named}{' (unchanged)' if opened == opened_before else ''}")
    return [*lines, *_expiry(after)]


def _product(name: str, after: Targets, before: Targets | None) -> list[str]:
    releases = f"{len(after.targets)} signed bundles, unchanged" if after.targets else "no release yet"
    return [_heading(name, after, before), f"  {releases}", *_expiry(after)]


def _heading(name: str, after: Signed, before: Signed | None) -> str:
    return f"{name} {before.version} -> {after.version}" if before else f"{name} {after.version}, the first one"


def _role(name: str, after: RoleKeys, before: RoleKeys | None) -> str:
    text = f"  {name}: {show_keys(after)}"
    if name in ONLINE:
        text = text.replace("key ", "the server's key ", 1)
    if before is None:
        return f"{text} (new)"
    added, gone = _only(after, before), _only(before, after)
    said = [f"adds {', '.join(map(show_key, added))}"] if added else []
    said += [f"takes away {', '.join(map(show_key, gone))}"] if gone else []
    said += [f"threshold {before.threshold} -> {after.threshold}"] if before.threshold != after.threshold else []
    return f"{text} ({'; '.join(said) or 'unchanged'})"


def _only(here: RoleKeys, there: RoleKeys) -> list[Key]:
    known = {key.keyid for key in there.keys}
    return [key for key in here.keys if key.keyid not in known]


def _delegations(targets: Targets) -> Mapping[str, RoleKeys]:
    names = (targets.delegations and targets.delegations.roles) or {}
    return {name: drafts.role_keys(targets, name) for name in names}


def _expiry(after: Signed) -> list[str]:
    return [f"  good until {after.expires:%Y-%m-%d}"]
