"""Owns the names that cross the network: products, versions, targets, devices, applications, labels.

Each `check_` function returns the name it was given or raises `BundleError` with a `name.*` code. Part of the resident
agent: standard library only, and no more of it than is loaded there anyway.
"""

from typing import Any, NamedTuple, Self

from beamfleet_bundles.errors import BundleError

_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz")
_DIGITS = frozenset("0123456789")
_LOWER_DIGITS = _LOWER | _DIGITS
_ALNUM = _LOWER_DIGITS | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_DASHED = _LOWER_DIGITS | {"-"}

LIBCS = ("glibc", "musl")
RESERVED_PRODUCTS = frozenset(
    {"assign", "director", "root", "targets", "snapshot", "timestamp", "assignment", "versions"}
)
"""Product names that would collide with a role of the metadata, or with a route beside the roles."""


def _matches(value: Any, first: frozenset[str], rest: frozenset[str], longest: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= longest and value[0] in first and rest.issuperset(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def check_product(value: str) -> str:
    """`^[a-z][a-z0-9-]{0,30}$`, and not one of `RESERVED_PRODUCTS`; error `name.product`."""
    if not _matches(value, _LOWER, _DASHED, 31):
        raise BundleError(
            "name.product",
            f"{_shown(value)} is not a product name",
            "use 1 to 31 lower-case letters, digits and dashes, beginning with a letter, such as sensor-gateway",
        )
    if value in RESERVED_PRODUCTS:
        raise BundleError("name.product", f"the product name {value!r} is reserved", "choose another product name")
    return value


def check_version(value: str) -> str:
    """`^[0-9A-Za-z][0-9A-Za-z.+-]{0,63}$`; error `name.version`."""
    if not _matches(value, _ALNUM, _ALNUM | frozenset(".+-"), 64):
        raise BundleError(
            "name.version",
            f"{_shown(value)} is not a version",
            "use 1 to 64 letters, digits, dots, pluses and dashes, beginning with a letter or digit, such as 1.2.0",
        )
    return value


def check_device(value: str) -> str:
    """`^[a-z0-9][a-z0-9-]{0,62}$`; error `name.device`."""
    if not _matches(value, _LOWER_DIGITS, _DASHED, 63):
        raise BundleError(
            "name.device",
            f"{_shown(value)} is not a device id",
            "use 1 to 63 lower-case letters, digits and dashes, beginning with a letter or digit",
        )
    return value


def check_app(value: str) -> str:
    """`^[a-z][a-z0-9-]{0,30}$`; error `name.app`. Today's only application is `main`."""
    if not _matches(value, _LOWER, _DASHED, 31):
        raise BundleError(
            "name.app",
            f"{_shown(value)} is not an application name",
            "use 1 to 31 lower-case letters, digits and dashes, beginning with a letter",
        )
    return value


def check_hardware(value: str) -> str:
    """The owner's name of a board, `^[a-z][a-z0-9-]{0,30}$`; error `name.hardware`."""
    if not _is_board(value):
        raise BundleError(
            "name.hardware",
            f"{_shown(value)} is not the name of a board",
            "use 1 to 31 lower-case letters, digits and dashes, beginning with a letter",
        )
    return value


def _is_board(value: Any) -> bool:
    return _matches(value, _LOWER, _DASHED, 31)


def check_label(key: str, value: str) -> tuple[str, str]:
    """KEY `^[a-z][a-z0-9_.-]{0,62}$`; VALUE at most 63 characters, `[0-9A-Za-z][0-9A-Za-z_.-]*` once or more with `/`
    between, such as `Europe/Berlin`; error `name.label`."""
    if not _matches(key, _LOWER, _LOWER_DIGITS | frozenset("_.-"), 63):
        raise BundleError(
            "name.label",
            f"{_shown(key)} is not a label's key",
            "use 1 to 63 lower-case letters, digits, '_', '.' and '-', beginning with a letter",
        )
    parts = value.split("/") if isinstance(value, str) and len(value) <= 63 else [value]
    if not all(_matches(part, _ALNUM, _ALNUM | frozenset("_.-"), 63) for part in parts):
        raise BundleError(
            "name.label",
            f"{_shown(value)} is not a value for the label {key}",
            "use 1 to 63 letters, digits, '_', '.' and '-', beginning with a letter or digit; '/' may part them",
        )
    return key, value


class Target(NamedTuple):
    """What a bundle runs on, written `ARCH-LIBC-otpN[-HARDWARE]`, such as `x86_64-glibc-otp25`."""

    arch: str
    """As `uname -m` says it: `x86_64`, `aarch64`, `armv7l`, `riscv64`."""
    libc: str
    """`glibc` or `musl`."""
    otp: int
    """Major version of Erlang/OTP."""
    hardware: str | None = None
    """As `check_hardware` takes it, or None for any."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The target that `text` names; error `name.target`."""
        arch, libc, otp, hardware = [*text.split("-", 3), "", "", ""][:4]
        digits = otp.removeprefix("otp")
        number = int(digits) if 0 < len(digits) <= 3 and _DIGITS.issuperset(digits) else 0
        target = cls(arch, libc, number, hardware or None)
        if (
            not _matches(arch, _LOWER, _LOWER_DIGITS | {"_"}, 16)
            or libc not in LIBCS
            or number < 1
            or (hardware and not _is_board(hardware))
            or str(target) != text
        ):
            raise BundleError(
                "name.target",
                f"{_shown(text)} is not a target",
                "a target is ARCH-LIBC-otpN[-HARDWARE], such as x86_64-glibc-otp25 or aarch64-musl-otp27-rpi4",
            )
        return target

    def __str__(self) -> str:
        return f"{self.arch}-{self.libc}-otp{self.otp}" + (f"-{self.hardware}" if self.hardware else "")


def check_target(value: str) -> str:
    """The target's name if `Target.parse` takes it; error `name.target`."""
    Target.parse(value)
    return value


def target_path(product: str, version: str, target: str) -> str:
    """`P/V/T/manifest`: the name of a release's manifest as a TUF target. The three parts are checked."""
    return f"{check_product(product)}/{check_version(version)}/{check_target(target)}/manifest"


def parse_target_path(path: str) -> tuple[str, str, str]:
    """(product, version, target) of a `target_path`; error `name.path`."""
    parts = path.split("/")
    if len(parts) != 4 or parts[3] != "manifest":
        raise BundleError("name.path", f"{_shown(path)} is not PRODUCT/VERSION/TARGET/manifest")
    return check_product(parts[0]), check_version(parts[1]), check_target(parts[2])
