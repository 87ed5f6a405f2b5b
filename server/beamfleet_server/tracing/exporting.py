"""Owns OpenTelemetry: spans go to a collector by OTLP over HTTP, from a thread of its own. What the collector does not
take is tried again for a while and then lost; nobody waits for it.

Imported only where `otel_endpoint` is set. The environment variables of OTLP exporters (headers, certificate, time-out)
count, but for the endpoint."""

import threading
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from beamfleet_server import __version__
from beamfleet_server.tracing.spans import Span

PATH = "/v1/traces"
GOOD_BYE_S = 5.0
SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class Exporter:
    """Sends spans to the collector at `endpoint`."""

    def __init__(self, endpoint: str) -> None:
        self._resource = Resource.create({"service.name": "beamfleet-server", "service.version": __version__})
        self._scope = InstrumentationScope("beamfleet_server", __version__)
        self._processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint.rstrip("/") + PATH))

    def export(self, spans: Sequence[Span]) -> None:
        """Queue spans; the oldest are dropped when the queue is full."""
        for span in spans:
            self._processor.on_end(self._readable(span))

    def close(self) -> None:
        """Send what is queued, and end; what takes too long is lost, since nobody waits for a collector."""
        ending = threading.Thread(target=self._processor.shutdown, name="traces", daemon=True)
        ending.start()
        ending.join(GOOD_BYE_S)

    def _readable(self, span: Span) -> ReadableSpan:
        def context(span_id: str) -> SpanContext:
            return SpanContext(int(span.trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=SAMPLED)

        return ReadableSpan(
            name=span.name,
            context=context(span.span_id),
            parent=context(span.parent) if span.parent else None,
            resource=self._resource,
            attributes=span.attributes,
            kind=SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.OK),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._scope,
        )
