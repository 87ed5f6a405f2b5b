"""`beamfleet serve`: hands the flags to the server. Every flag is a setting; what is not given comes from elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from beamfleet_server.cli.options import examples

EXAMPLES = examples(
    "beamfleet serve --data fleet",
    "beamfleet serve --data /var/lib/beamfleet-server --host 0.0.0.0 --name fleet.example",
)


def serve(
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="The server's one data directory; else beamfleet-data.")
    ] = None,
    database: Annotated[
        str | None,
        typer.Option("--database", metavar="ADDRESS", help="postgresql://USER@HOST:PORT/NAME; else SQLite."),
    ] = None,
    database_password_file: Annotated[
        Path | None, typer.Option("--database-password-file", metavar="FILE", help="Where its password is.")
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", metavar="ADDRESS", help="Address that all listeners bind; else 127.0.0.1.")
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name", metavar="NAME", help="Name or address under which devices reach this server; repeat for more."
        ),
    ] = None,
    operators_port: Annotated[
        int | None,
        typer.Option("--operators-port", metavar="PORT", help="HTTPS for operators; else 8443, 0 takes a free one."),
    ] = None,
    devices_port: Annotated[
        int | None,
        typer.Option("--devices-port", metavar="PORT", help="HTTPS for devices; else 8444, 0 takes a free one."),
    ] = None,
    enrolment_port: Annotated[
        int | None,
        typer.Option("--enrolment-port", metavar="PORT", help="HTTPS for enrolment; else 8445, 0 takes a free one."),
    ] = None,
    mqtt_port: Annotated[
        int | None, typer.Option("--mqtt-port", metavar="PORT", help="MQTT over TLS; else 8883, 0 takes a free one.")
    ] = None,
    metrics_host: Annotated[
        str | None, typer.Option("--metrics-host", metavar="ADDRESS", help="Address of metrics; else 127.0.0.1.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option("--metrics-port", metavar="PORT", help="Metrics, plain HTTP; else 9464, 0 takes a free one."),
    ] = None,
    metrics_per_device: Annotated[
        bool | None,
        typer.Option(
            "--metrics-per-device/--no-metrics-per-device",
            help="Whether metrics have series of each device, too; else False.",
            show_default=False,
        ),
    ] = None,
    otel_endpoint: Annotated[
        str | None,
        typer.Option("--otel-endpoint", metavar="URL", help="OTLP/HTTP collector for traces of rollouts; else none."),
    ] = None,
    admin_token_file: Annotated[
        Path | None,
        typer.Option(
            "--admin-token-file", metavar="FILE", help="The first operator's token at the first start; else made up."
        ),
    ] = None,
    mosquitto: Annotated[
        Path | None, typer.Option("--mosquitto", metavar="FILE", help="The mosquitto program; else the one on PATH.")
    ] = None,
    log_format: Annotated[
        str | None, typer.Option("--log-format", metavar="console|json", help="How log lines look; else console.")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning or error; else info.")
    ] = None,
    max_bundle_bytes: Annotated[
        int | None, typer.Option("--max-bundle-bytes", metavar="N", help="Largest bundle in bytes; else 2147483648.")
    ] = None,
    requests_per_operator_s: Annotated[
        int | None,
        typer.Option("--requests-per-operator-s", metavar="N", help="Requests a second of one operator; else 100."),
    ] = None,
    requests_per_address_s: Annotated[
        int | None,
        typer.Option("--requests-per-address-s", metavar="N", help="Requests a second of one address; else 200."),
    ] = None,
    requests_per_device_s: Annotated[
        int | None,
        typer.Option("--requests-per-device-s", metavar="N", help="HTTPS requests a second of one device; else 20."),
    ] = None,
    session_idle_s: Annotated[
        int | None,
        typer.Option("--session-idle-s", metavar="N", help="A web session ends when unused this long; else 1800."),
    ] = None,
    session_life_s: Annotated[
        int | None,
        typer.Option("--session-life-s", metavar="N", help="A web session ends after this at most; else 43200."),
    ] = None,
    enrolment_approval: Annotated[
        bool | None,
        typer.Option(
            "--enrolment-approval/--no-enrolment-approval",
            help="Whether devices without a token may ask, and wait for a person; else False.",
            show_default=False,
        ),
    ] = None,
    device_certificate_days: Annotated[
        int | None,
        typer.Option(
            "--device-certificate-days", metavar="N", help="How long devices' certificates are good; else 90."
        ),
    ] = None,
    device_certificate_s: Annotated[
        int | None, typer.Option("--device-certificate-s", metavar="N", help="The same in seconds, for trials.")
    ] = None,
    server_certificate_s: Annotated[
        int | None,
        typer.Option("--server-certificate-s", metavar="N", help="The same of the server's own; else 34300800."),
    ] = None,
    approval_above: Annotated[
        int | None,
        typer.Option("--approval-above", metavar="N", help="Rollouts to more devices need two operators; else 0."),
    ] = None,
    oidc_issuer: Annotated[
        str | None, typer.Option("--oidc-issuer", metavar="URL", help="OpenID provider for web log-ins; else none.")
    ] = None,
    oidc_client_id: Annotated[
        str | None, typer.Option("--oidc-client-id", metavar="ID", help="As what it knows this server.")
    ] = None,
    oidc_client_secret_file: Annotated[
        Path | None, typer.Option("--oidc-client-secret-file", metavar="FILE", help="Where its secret for it is.")
    ] = None,
    oidc_ca_file: Annotated[
        Path | None, typer.Option("--oidc-ca-file", metavar="FILE", help="The provider's CA; else the system's.")
    ] = None,
    oidc_role_claim: Annotated[
        str | None,
        typer.Option("--oidc-role-claim", metavar="CLAIM", help="The claim that has the role; else beamfleet_role."),
    ] = None,
    ingest_batch: Annotated[
        int | None, typer.Option("--ingest-batch", metavar="N", help="Most reports committed at once; else 2000.")
    ] = None,
    ingest_wait_ms: Annotated[
        int | None,
        typer.Option("--ingest-wait-ms", metavar="N", help="Longest time a report waits for others; else 20."),
    ] = None,
    ingest_rate: Annotated[
        int | None, typer.Option("--ingest-rate", metavar="N", help="Messages a second of one device; else 20.")
    ] = None,
    flood_patience_s: Annotated[
        int | None,
        typer.Option("--flood-patience-s", metavar="N", help="Time above it after which it is cut off; else 60."),
    ] = None,
    flood_deny_s: Annotated[
        int | None, typer.Option("--flood-deny-s", metavar="N", help="How long it is not taken again; else 600.")
    ] = None,
    offline_after_s: Annotated[
        int | None,
        typer.Option("--offline-after-s", metavar="N", help="Silence after which a device is offline; else 300."),
    ] = None,
    heartbeat_url: Annotated[
        str | None,
        typer.Option("--heartbeat-url", metavar="URL", help="Posted to each minute while all is well; else none."),
    ] = None,
    heartbeat_ca_file: Annotated[
        Path | None, typer.Option("--heartbeat-ca-file", metavar="FILE", help="The CA of it, if it is your own.")
    ] = None,
    webhook_networks: Annotated[
        str | None,
        typer.Option("--webhook-networks", metavar="NETS", help="Where webhooks may go beside public addresses; none."),
    ] = None,
    webhook_ca_file: Annotated[
        Path | None,
        typer.Option("--webhook-ca-file", metavar="FILE", help="Authorities of their receivers beside the system's."),
    ] = None,
    webhook_timeout_s: Annotated[
        int | None, typer.Option("--webhook-timeout-s", metavar="N", help="How long such a receiver has; else 10.")
    ] = None,
    webhook_retry_s: Annotated[
        int | None, typer.Option("--webhook-retry-s", metavar="N", help="First pause before it is tried again; else 5.")
    ] = None,
    webhook_retry_for_s: Annotated[
        int | None,
        typer.Option("--webhook-retry-for-s", metavar="N", help="How long a delivery is tried; else 86400."),
    ] = None,
    webhook_disable_after_s: Annotated[
        int | None,
        typer.Option("--webhook-disable-after-s", metavar="N", help="Failing that ends a webhook; else 259200."),
    ] = None,
    webhook_log_days: Annotated[
        int | None, typer.Option("--webhook-log-days", metavar="N", help="How long deliveries are listed; else 30.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Settings; else DATA/beamfleet-server.toml.")
    ] = None,
) -> None:
    """Start the server.

    API, enrolment, device listener, broker and rollouts, with one data directory.

    The first start makes keys, certificates and the token of the first operator, and prints how to log in. Stop it
    with Ctrl-C or SIGTERM; start it again at any time. Each flag can also be set by BEAMFLEET_NAME in the environment
    or in the file; `beamfleet config` shows which one counted.
    """
    from beamfleet_server.serve import serve as run
    from beamfleet_server.settings import load

    flags = {
        "data": data,
        "database": database,
        "database_password_file": database_password_file,
        "host": host,
        "names": tuple(names) if names else None,
        "operators_port": operators_port,
        "devices_port": devices_port,
        "enrolment_port": enrolment_port,
        "mqtt_port": mqtt_port,
        "metrics_host": metrics_host,
        "metrics_port": metrics_port,
        "metrics_per_device": metrics_per_device,
        "otel_endpoint": otel_endpoint,
        "admin_token_file": admin_token_file,
        "mosquitto": mosquitto,
        "log_format": log_format,
        "log_level": log_level,
        "max_bundle_bytes": max_bundle_bytes,
        "requests_per_operator_s": requests_per_operator_s,
        "requests_per_address_s": requests_per_address_s,
        "requests_per_device_s": requests_per_device_s,
        "session_idle_s": session_idle_s,
        "session_life_s": session_life_s,
        "enrolment_approval": enrolment_approval,
        "device_certificate_days": device_certificate_days,
        "device_certificate_s": device_certificate_s,
        "server_certificate_s": server_certificate_s,
        "approval_above": approval_above,
        "oidc_issuer": oidc_issuer,
        "oidc_client_id": oidc_client_id,
        "oidc_client_secret_file": oidc_client_secret_file,
        "oidc_ca_file": oidc_ca_file,
        "oidc_role_claim": oidc_role_claim,
        "ingest_batch": ingest_batch,
        "ingest_wait_ms": ingest_wait_ms,
        "ingest_rate": ingest_rate,
        "flood_patience_s": flood_patience_s,
        "flood_deny_s": flood_deny_s,
        "offline_after_s": offline_after_s,
        "heartbeat_url": heartbeat_url,
        "heartbeat_ca_file": heartbeat_ca_file,
        "webhook_networks": webhook_networks,
        "webhook_ca_file": webhook_ca_file,
        "webhook_timeout_s": webhook_timeout_s,
        "webhook_retry_s": webhook_retry_s,
        "webhook_retry_for_s": webhook_retry_for_s,
        "webhook_disable_after_s": webhook_disable_after_s,
        "webhook_log_days": webhook_log_days,
    }
    raise typer.Exit(run(load(flags, file)))
