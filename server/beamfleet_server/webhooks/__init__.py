"""Signed webhooks: what happens in the fleet, told to other servers. The way of an event:

    events ──► store.deliveries.fill ──► pending ──► dispatch ── sending ──► the receiver
                     │ payload                          │            │
                     └ the JSON that travels             │            └ addresses: where requests may go at all
                                                         └ signing: secrets and signatures

The outbox is in the database: what is there survives every kill, and is sent at least once."""
