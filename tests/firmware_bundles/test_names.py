import pytest
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.names import (
    RESERVED_PRODUCTS,
    Target,
    check_app,
    check_device,
    check_hardware,
    check_label,
    check_product,
    check_target,
    check_version,
    parse_target_path,
    target_path,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.support.refusal import refusal

CHECKS = {
    "name.product": check_product,
    "name.version": check_version,
    "name.device": check_device,
    "name.app": check_app,
    "name.hardware": check_hardware,
    "name.target": check_target,
}
GOOD = {
    "name.product": "a|sensor-gateway|" + "a" * 31,
    "name.version": "1|1.2.0|2026-01-01|1.0+b.7|v1|" + "1" * 64,
    "name.device": "a|0|gw-01|" + "a" * 63,
    "name.app": "main|a1-b",
    "name.hardware": "rpi4|board-b|" + "a" * 31,
    "name.target": "x86_64-glibc-otp25|aarch64-musl-otp27-rpi4|riscv64-glibc-otp29-board-b",
}
BAD = {
    "name.product": "|A|1a|-a|a_b|a\n|\u00e9|" + "a" * 32,
    "name.version": "|.|..|+1|1/2|1 2|" + "1" * 65,
    "name.device": "|-a|a/b|A|_server|#|a\0|" + "a" * 64,
    "name.app": "|1|Main|" + "a" * 32,
    "name.hardware": "|4rpi|Rpi|rpi 4|rpi_4|" + "a" * 32,
    "name.target": "|x86_64|x86_64-glibc|x86_64-glibc-otp|x86_64-glibc-otp025|x86_64-glibc-otp0|x86_64-uclibc-otp25"
    "|X86-glibc-otp25|x86_64-glibc-otp25-|x86_64-glibc-otp25-Rpi|x86_64-glibc-otp1000|x86_64-glibc-otp\uff12\uff15",
}


def pairs(names: dict[str, str]) -> list[tuple[str, str]]:
    return [(code, name) for code, text in names.items() for name in text.split("|")]


@pytest.mark.parametrize(("code", "name"), pairs(GOOD))
def test_a_good_name_is_given_back(code: str, name: str) -> None:
    assert CHECKS[code](name) == name


@pytest.mark.parametrize(("code", "name"), pairs(BAD))
def test_a_bad_name_is_refused_with_its_own_code_and_a_hint(code: str, name: str) -> None:
    with pytest.raises(BundleError) as error:
        CHECKS[code](name)
    assert error.value.code == code
    assert error.value.hint


@pytest.mark.parametrize("name", sorted(RESERVED_PRODUCTS | {"director", "versions"}))
def test_a_product_cannot_take_the_name_of_a_role(name: str) -> None:
    with pytest.raises(BundleError, match="reserved"):
        check_product(name)


def test_labels_have_short_plain_keys_and_values() -> None:
    assert check_label("site", "Berlin-1") == ("site", "Berlin-1")
    for pair in ("=a", "Site=a", "site=", "site=a,b", "site=a=b", "s" * 64 + "=a", "a=" + "x" * 64):
        assert refusal(check_label, *pair.split("=", 1)) == "name.label"


def test_slashes_part_the_value_of_a_label_as_they_part_the_name_of_a_time_zone() -> None:
    for value in ("Europe/Berlin", "America/Argentina/Buenos_Aires", "a/b/c"):
        assert check_label("timezone", value) == ("timezone", value)
    for value in ("/Berlin", "Europe/", "Europe//Berlin", "a/../b", "a/.b", "./a", "/", "a/" + "x" * 62):
        assert refusal(check_label, "timezone", value) == "name.label"


def test_a_target_path_and_its_parts_belong_together() -> None:
    path = target_path("sensor-gateway", "1.0.0", "x86_64-glibc-otp25")
    assert path == "sensor-gateway/1.0.0/x86_64-glibc-otp25/manifest"
    assert parse_target_path(path) == ("sensor-gateway", "1.0.0", "x86_64-glibc-otp25")
    for other in ("", path + "/x", path.removesuffix("manifest"), "assign/1/x86_64-glibc-otp25/manifest", "/" + path):
        with pytest.raises(BundleError):
            parse_target_path(other)


@given(
    st.from_regex(r"[a-z][a-z0-9_]{0,15}", fullmatch=True),
    st.sampled_from(["glibc", "musl"]),
    st.integers(1, 999),
    st.none() | st.from_regex(r"[a-z][a-z0-9-]{0,30}", fullmatch=True),
)
def test_every_target_reads_back_as_it_was_written(arch: str, libc: str, otp: int, hardware: str | None) -> None:
    target = Target(arch, libc, otp, hardware)
    assert Target.parse(str(target)) == target


@given(st.text(max_size=80))
def test_no_text_breaks_a_check(text: str) -> None:
    for code, check in CHECKS.items():
        assert refusal(check, text) in ("", code)
