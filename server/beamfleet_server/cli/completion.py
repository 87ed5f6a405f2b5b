"""What the shell offers for ids: asked from the server, briefly; nothing at all when it does not answer at once."""

from collections.abc import Callable, Iterable

import typer
from beamfleet_bundles.errors import BeamfleetError

from beamfleet_server.cli.client import Client
from beamfleet_server.cli.session import Session

LIMIT = 200
TIMEOUT_S = 2

Offers = list[tuple[str, str]]


def devices(ctx: typer.Context, incomplete: str) -> Offers:
    return _offers(
        ctx, incomplete, lambda client: ((d["id"], _running(d)) for d in client.pages("/devices", limit=LIMIT))
    )


def products(ctx: typer.Context, incomplete: str) -> Offers:
    return _offers(ctx, incomplete, lambda client: ((p["name"], "") for p in client.pages("/products", limit=LIMIT)))


def rollouts(ctx: typer.Context, incomplete: str) -> Offers:
    return _offers(
        ctx,
        incomplete,
        lambda client: (
            (str(r["id"]), f"{r['product']} {r['version']} {r['state']}")
            for r in client.pages("/rollouts", limit=LIMIT)
        ),
    )


def webhooks(ctx: typer.Context, incomplete: str) -> Offers:
    return _offers(
        ctx, incomplete, lambda client: ((str(w["id"]), f"{w['url']} {w['state']}") for w in client.pages("/webhooks"))
    )


def contexts(ctx: typer.Context, incomplete: str) -> Offers:
    return [
        (context.name, context.server)
        for context in _session(ctx).contexts.all()
        if context.name.startswith(incomplete)
    ]


def _offers(ctx: typer.Context, incomplete: str, ask: Callable[[Client], Iterable[tuple[str, str]]]) -> Offers:
    try:
        context = _session(ctx).context
        client = Client(context.server, context.ca, context.token, timeout_s=TIMEOUT_S, patience_s=0)
        return [offer for offer in ask(client) if offer[0].startswith(incomplete)]
    except (BeamfleetError, KeyError):
        return []


def _running(device: dict[str, object]) -> str:
    return f"{device.get('product') or 'nothing'} {device.get('version') or 'installed'}"


def _session(ctx: typer.Context) -> Session:
    """While a shell completes no command runs, and so the global flags are still with the root."""
    session = Session.here()
    flags = ctx.find_root().params
    session.choose(str(flags.get("config_dir") or ""), str(flags.get("context") or ""))
    return session
