"""Traces of rollouts for OpenTelemetry, off unless `otel_endpoint` names a collector:

    ids         pure: which trace a rollout is, which span a device's part in it
    spans       pure: rows of the store and a device's words ─► spans
    following   the feed of events ─► spans, when something has ended
    exporting   spans ─► OTLP/HTTP; the only place that imports OpenTelemetry

    rollout ──┬── device ──┬── downloading, verified, staged, swapping, trial
              └── device …

A device gets its span's id in the signed assignment (`traceparent`), writes the trace's into its log lines, and sends
both back with what it measured itself when its update has ended."""
