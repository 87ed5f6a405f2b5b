"""What Prometheus scrapes, on a listener of its own:

    GET /metrics ─► application (limits, one look at a time) ─► readings (store, broker, ingest; kept for seconds)
                                                                    │
                                        families (pure: readings ─► metric families with bounded labels)

Alert rules, a dashboard and a configuration for all this are in `server/deploy`."""
