"""Owns what was ordered with `beamfleet flash`: options checked against each other, files read, words for the device.

Asks no server and looks at no target. Secrets come from files and end in `words`, which nobody prints.
"""

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from beamfleet_bundles.names import check_device, check_hardware

from beamfleet_server.cli.errors import CommandError
from beamfleet_server.cli.files import read_file, read_token
from beamfleet_server.cli.flash_options import FlashOptions
from beamfleet_server.cli.labels import parse_labels
from beamfleet_server.cli.quantities import parse_duration
from beamfleet_server.enrolment_tokens import is_enrolment_token

if TYPE_CHECKING:
    from beamfleet_bundles.bundle import Bundle

APP = "main"
LIFE_S, LATER_LIFE_S, LONGEST_LIFE_S = 3600, 7 * 86_400, 366 * 86_400
MOST_DEVICES = 100_000
TARGETS = ("root", "image", "device", "ssh", "deb")
_SOURCES = re.compile(r"machine-id|serial|mac|command:/[!-~]+")
_PREFIX = re.compile(r"([a-z0-9][a-z0-9-]{0,62})?")
_MODE = re.compile(r"0?[0-7]{3}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made of a target, as far as the operator's side knows it."""

    device: str
    """Empty when the device works its id out itself."""
    labels: dict[str, str]
    token: str
    """One that was given; empty: one is made, or none is needed."""
    life_s: int
    given: dict[str, str]
    """An identity that was made elsewhere."""
    words: dict[str, Any]
    """Of the setup, without those that the server knows; what is as by default is left out where it is new."""
    bundle: "Bundle | None"

    @classmethod
    def of(cls, options: FlashOptions) -> "Order":
        """Errors `usage.*`, `name.*`, `file.unreadable`, `token.missing`, `bundle.*`."""
        _check_id(options)
        if options.hardware:
            check_hardware(options.hardware)
        variables = _variables(options.environment or [], options.env_file)
        labels = parse_labels(options.labels or ())
        _check_identity(options, labels)
        given = _given(options.certificate, options.key)
        token = _token(options.token_file)
        soon = options.single_user or options.ssh is not None
        life_s = life_of(options.expires) if options.expires else LIFE_S if soon else LATER_LIFE_S
        words = {
            "device": options.id,
            "app": APP,
            "hardware": options.hardware,
            "network": options.network or "",
            "env": variables,
            "single_user": options.single_user,
            "allow_unsafe_filesystem": options.allow_unsafe_filesystem,
            "trial_s": options.trial_s,
            "trial_deadline_s": options.trial_deadline_s,
            "profile": options.profile.value,
            "health_interval_s": options.health_interval_s,
        }
        return cls(options.id, labels, token, life_s, given, words | _new_words(options), _bundle(options.bundle))


def _new_words(options: FlashOptions) -> dict[str, Any]:
    words: dict[str, Any] = {
        "proxy": _proxy(options.proxy, options.proxy_file),
        "transport": (options.transport or "").replace("tcp", ""),
        "keepalive_s": options.keepalive_s,
        "id_from": options.id_from,
        "id_prefix": options.id_prefix,
        "wifi": _wifi(options),
        "apn": _apn(options),
        "files": [_file(each) for each in options.files or ()],
    }
    return {name: value for name, value in words.items() if value}


def _check_id(options: FlashOptions) -> None:
    if options.id:
        check_device(options.id)
    if options.remove:
        return
    if bool(options.id) == bool(options.id_from):
        hint = "one of: --id ID, --id-from machine-id, serial, mac or command:PATH"
        raise CommandError("usage.identity", "which id does the device get?", hint)
    if options.id_from and not _SOURCES.fullmatch(options.id_from):
        hint = "machine-id, serial, mac, or command:/PATH of a program on the device"
        raise CommandError("usage.identity", f"no id comes from {options.id_from!r}", hint)
    if options.id and (options.id_prefix or options.count > 1):
        raise CommandError("usage.identity", "--id-prefix and --count go with --id-from", "leave them away with --id")
    if options.count > MOST_DEVICES:
        raise CommandError("usage.identity", f"--count {options.count} is too many", f"at most {MOST_DEVICES}")
    if not _PREFIX.fullmatch(options.id_prefix):
        hint = "small letters, digits and dashes, as in gw-"
        raise CommandError("usage.identity", f"no id begins with --id-prefix {options.id_prefix!r}", hint)
    if options.id_from and options.single_user:
        hint = "give --id: a device in a directory is laid down at once"
        raise CommandError("usage.identity", "--id-from is for what boots later", hint)


def _check_identity(options: FlashOptions, labels: Mapping[str, str]) -> None:
    if labels and (options.token_file or options.approval):
        raise CommandError(
            "usage.label",
            "labels belong to the token",
            "give them to `beamfleet token create`, or to `beamfleet device label` once the device is known",
        )
    ways = (options.approval, options.token_file is not None, options.certificate is not None)
    if sum(ways) > 1 or (options.certificate is None) != (options.key is None):
        raise CommandError(
            "usage.identity",
            "a device gets its identity in one way",
            "give nothing, --token-file, --approval, or --cert and --key together",
        )
    if options.replace and options.id_from:
        hint = "give --id: a token for many never replaces a device"
        raise CommandError("usage.identity", "--replace does not go with --id-from", hint)
    if options.expires and any(ways):
        hint = "leave it away; `beamfleet token create --expires` says it for one that is given"
        raise CommandError("usage.identity", "--expires is for the token that is made here", hint)
    if options.certificate and options.id_from:
        hint = "a certificate has an id in it: give that with --id"
        raise CommandError("usage.identity", "--cert does not go with --id-from", hint)


def check_target(options: FlashOptions) -> str:
    """Which of `TARGETS` is meant; --image with --device is the device. Error: `usage.target`."""
    named = [name for name in TARGETS if getattr(options, name) is not None]
    if "device" in named and "image" in named:
        named.remove("image")
    if len(named) != 1:
        hint = "one of: --root DIR, --image FILE, --device /dev/sdX (with --image to write), --ssh HOST, --deb OUT"
        raise CommandError("usage.target", "what is to be flashed?" if not named else "one target at a time", hint)
    if options.single_user and named != ["root"]:
        raise CommandError("usage.target", "--single-user is for a device in a directory", "give it with --root")
    if options.wipe and not options.remove:
        raise CommandError("usage.target", "--wipe goes with --remove", "leave it away, or add --remove")
    if options.remove and named == ["device"] and options.image is not None:
        raise CommandError("usage.target", "--image is to be written, not removed", "leave it away with --remove")
    if options.remove and named == ["deb"]:
        raise CommandError("usage.target", "there is nothing to remove from --deb", "apt-get purge removes a package")
    return named[0]


def image_of(text: str) -> tuple[Path, int | None]:
    """(the file, the partition) of FILE[:N]. `usage.target` for an N that is no number."""
    file, colon, number = text.rpartition(":")
    if colon and number.isdecimal() and number.isascii() and len(number) < 4:
        return Path(file), int(number)
    if colon and not os.path.lexists(text) and Path(file).is_file():
        hint = f"such as --image {file}:2; without a number the only partition with a Linux system is taken"
        raise CommandError("usage.target", f"{number!r} is no number of a partition of {file}", hint)
    return Path(text), None


def _variables(pairs: list[str], file: Path | None) -> dict[str, str]:
    """Environment variables of the file, then of the flags. `usage.environment` for what is not KEY=VALUE; nothing of
    the file is shown, for secrets are in it."""
    variables: dict[str, str] = {}
    lines = _text(file, "the environment", "usage.environment").split("\n") if file else []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            key, value = _variable(line.removesuffix("\r"), f"{file}, line {number}")
            variables[key] = value
    for pair in pairs:
        key, value = _variable(pair, f"--env {pair.partition('=')[0]!r}")
        variables[key] = value
    return variables


def _variable(line: str, where: str) -> tuple[str, str]:
    key, equals, value = line.partition("=")
    if not equals or not _VARIABLE.fullmatch(key):
        raise CommandError("usage.environment", f"{where}: this is not KEY=VALUE", "such as PORT=8080")
    if not value.isprintable():
        what = "a NUL" if "\0" in value else "a character that has no place in a line of text"
        raise CommandError("usage.environment", f"{where}: there is {what} in the value", "give one line of text")
    return key, value


def _text(file: Path, what: str, code: str) -> str:
    """A file in UTF-8. `file.unreadable`, or `code`."""
    try:
        return read_file(file, what).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CommandError(code, f"{file} is not UTF-8", "give a text file") from None


def _given(certificate: Path | None, key: Path | None) -> dict[str, str]:
    """An identity that was made elsewhere, as setup takes it; {} if there is none."""
    if certificate is None or key is None:
        return {}
    files = {"certificate_pem": (certificate, "the certificate"), "key_pem": (key, "the key")}
    return {name: read_file(path, what).decode("ascii", "replace") for name, (path, what) in files.items()}


def _token(file: Path | None) -> str:
    """The token that is given; the operator's own, which lies about as well, never gets onto a device."""
    if file is None:
        return ""
    hint = "`beamfleet token create ID --out FILE` makes one; without --token-file one is made here"
    try:
        token = read_token(str(file))
    except CommandError as error:
        if error.code != "token.missing":
            raise
        raise CommandError(error.code, error.message, hint) from None
    if not is_enrolment_token(token):
        raise CommandError("token.missing", f"what is in {file} is no token with which a device enrols", hint)
    return token


def life_of(text: str) -> int:
    """Seconds that a token is to be good. Error `usage.duration`."""
    life_s = parse_duration(text)
    if life_s > LONGEST_LIFE_S:
        raise CommandError("usage.duration", f"--expires {text} is too long for a token", "at most 366d")
    return life_s


def _file(text: str) -> dict[str, str]:
    source, colon, rest = text.partition(":/")
    path, more, mode = ("/" + rest).partition(":")
    whole = PurePosixPath(path)
    if not colon or not source or ".." in whole.parts or path.endswith("/") or (more and not _MODE.fullmatch(mode)):
        hint = "FILE:/PATH[:MODE], as in --file modem.conf:/etc/modem.conf:0600"
        raise CommandError("usage.file", f"{text!r} does not say what goes where", hint)
    content = read_file(Path(source), "a file for the device")
    encoded = base64.b64encode(content).decode("ascii")
    return {"path": str(whole), "mode": (mode or "0644").zfill(4), "content_base64": encoded}


def _wifi(options: FlashOptions) -> dict[str, str]:
    if options.wifi_ssid is None:
        if options.wifi_psk_file or options.wifi_country:
            raise CommandError("usage.network", "which wireless network?", "add --wifi-ssid SSID")
        return {}
    _said("--wifi-ssid", options.wifi_ssid)
    key = _secret(options.wifi_psk_file, "the passphrase")
    return {"ssid": options.wifi_ssid, "psk": key, "country": options.wifi_country}


def _apn(options: FlashOptions) -> dict[str, str]:
    if options.apn is None:
        if options.apn_user or options.apn_password_file:
            raise CommandError("usage.network", "which access point?", "add --apn NAME")
        return {}
    _said("--apn", options.apn)
    password = _secret(options.apn_password_file, "the password")
    return {"apn": options.apn, "user": options.apn_user, "password": password}


def _proxy(typed: str | None, file: Path | None) -> str:
    if typed is not None and file:
        raise CommandError("usage.network", "one proxy is enough", "give --proxy or --proxy-file")
    _said("--proxy", typed)
    url = typed or _secret(file, "the proxy")
    if not url:
        return ""
    try:
        parts = urlsplit(url)
        right = parts.scheme == "http" and parts.hostname and parts.port
    except ValueError:
        right, parts = None, urlsplit("")
    if not right:
        raise CommandError("usage.network", "this is not the address of a proxy", "http://HOST:PORT")
    if typed and parts.password:
        hint = "put the address into a file of mode 0600, and give --proxy-file FILE"
        raise CommandError("usage.network", "everybody on this machine can read a password in an argument", hint)
    return url


def _secret(file: Path | None, what: str) -> str:
    if file is None:
        return ""
    text = _text(file, what, "usage.network").strip("\r\n")
    if not text:
        hint = "leave the option away, or fill the file"
        raise CommandError("usage.network", f"{file} is empty, and {what} should be in it", hint)
    return text


def _said(flag: str, value: str | None) -> None:
    """Refuse what is given and says nothing: a variable that a script has not set would make an open network."""
    if value is not None and not value.strip():
        raise CommandError("usage.network", f"{flag} is empty", f"leave {flag} away, or say which")


def _bundle(file: Path | None) -> "Bundle | None":
    if file is None:
        return None
    from beamfleet_bundles.bundle import Bundle

    bundle = Bundle.open(file)
    if not bundle.metadata:
        hint = f"beamfleet bundle sign {file}; a device takes nothing else"
        raise CommandError("usage.bundle", f"{file} has no signatures in it", hint)
    return bundle
