from pathlib import Path
from typing import Any

import msgspec
import pytest
from beamfleet_bundles import canonical
from beamfleet_bundles.errors import BundleError
from beamfleet_bundles.launch import Launch, parse
from beamfleet_bundles.probes import LIMITS, Kind, Probe, Probes
from beamfleet_bundles.probes import parse as parse_probe
from hypothesis import given
from hypothesis import strategies as st

from tests.support.manifests import LAUNCH
from tests.support.refusal import refusal

FORMAT = Path(__file__).resolve().parents[2] / "firmware_bundles/FORMAT.md"
WORD = st.from_regex(r"[0-9A-Za-z_.+~][0-9A-Za-z_.+~-]{0,12}", fullmatch=True)
PATH = st.from_regex(r"[a-z]{1,6}(/[a-z][a-z0-9_.-]{0,8}){0,3}", fullmatch=True)
NAME = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True)
VALUE = st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=30)
OPTIONAL = st.just("") | PATH
HANDLER: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [{"http": "80/"}, {"tcp": 65535}, {"command": "bin/check a,b"}, {"erlang": "a:b"}]
)


@st.composite
def probe(draw: st.DrawFn, kind: Kind) -> Probe:
    """One that is allowed; most fields have their defaults."""
    limits = {**LIMITS, "success_threshold": (1, 1 if kind != "readiness" else 100)}
    numbers: dict[str, Any] = {
        name: draw(st.integers(*limits[name])) for name in draw(st.sets(st.sampled_from(sorted(limits))))
    }
    return Probe(**draw(HANDLER), **numbers)


LAUNCHES = st.builds(
    Launch,
    kind=st.sampled_from(["relx", "mix", "systools"]),
    name=WORD,
    vsn=WORD,
    erts=WORD,
    boot=PATH,
    config=OPTIONAL,
    config_src=OPTIONAL,
    args_file=OPTIONAL,
    args_src=OPTIONAL,
    env_sh=OPTIONAL,
    boot_vars=st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,9}", fullmatch=True), PATH, max_size=3),
    args=st.lists(VALUE, max_size=4).map(tuple),
    environment=st.lists(NAME, max_size=4).map(tuple),
    distribution=st.sampled_from(["none", "loopback"]),
    probes=st.builds(
        Probes,
        http=st.none() | st.just("8080/health?x=1"),
        command=st.none() | st.just("bin/check --fast"),
        timeout_s=st.integers(1, 60),
        startup=st.just(msgspec.UNSET) | probe("startup"),
        readiness=st.just(msgspec.UNSET) | probe("readiness"),
        liveness=st.just(msgspec.UNSET) | probe("liveness"),
        confirm=st.sampled_from([True, msgspec.UNSET]),
    ),
    data_schema=st.just(msgspec.UNSET) | st.integers(0, 2**53 - 1),
)


@given(LAUNCHES)
def test_every_description_reads_back_as_it_was_written(launch: Launch) -> None:
    assert parse(launch.encode()) == launch


def test_the_file_is_lines_of_key_and_value_in_a_fixed_order() -> None:
    launch = msgspec.structs.replace(
        LAUNCH, args=("-pa", "a b"), boot_vars={"RELEASE_LIB": "lib"}, environment=("PORT",), probes=Probes(http="80/")
    )
    assert launch.encode().decode().splitlines() == [
        "kind=relx",
        "name=my_app",
        "vsn=1.0.0",
        "erts=13.1.5",
        "boot=releases/1.0.0/start",
        "config=",
        "config_src=",
        "args_file=",
        "args_src=",
        "env_sh=",
        "boot_var.0=RELEASE_LIB=lib",
        "arg.0=-pa",
        "arg.1=a b",
        "env.0=PORT",
        "distribution=none",
        "probe_http=80/",
        "probe_command=",
        "probe_timeout_s=5",
    ]


def test_probes_that_have_a_kind_say_what_they_are_and_not_their_defaults() -> None:
    probes = Probes(
        liveness=Probe(http="8080/health", period_s=5),
        startup=Probe(erlang="Elixir.A.B:up?", timeout_s=3),
        confirm=True,
    )
    launch = msgspec.structs.replace(LAUNCH, probes=probes)
    assert launch.encode() == LAUNCH.encode() + (
        b"probe_startup_erlang=Elixir.A.B:up?\nprobe_startup_timeout_s=3\n"
        b"probe_liveness_http=8080/health\nprobe_liveness_period_s=5\nprobe_confirm=yes\n"
    )
    assert canonical.encode(msgspec.to_builtins(probes)) == (
        b'{"command":null,"confirm":true,"http":null,"liveness":{"http":"8080/health","period_s":5},'
        b'"startup":{"erlang":"Elixir.A.B:up?","timeout_s":3},"timeout_s":5}\n'
    )
    assert canonical.encode(msgspec.to_builtins(Probes())) == b'{"command":null,"http":null,"timeout_s":5}\n'


@pytest.mark.parametrize(
    ("words", "probe"),
    [
        ("http=8080/health,period_s=5", Probe(http="8080/health", period_s=5)),
        ("tcp=22", Probe(tcp=22)),
        ("failure_threshold=2,command=bin/check --of=a,b", Probe(command="bin/check --of=a,b", failure_threshold=2)),
        ("erlang=a:b,initial_delay_s=30,timeout_s=2", Probe(erlang="a:b", initial_delay_s=30, timeout_s=2)),
    ],
)
def test_a_probe_is_said_in_words(words: str, probe: Probe) -> None:
    assert parse_probe("liveness", words) == probe


@pytest.mark.parametrize(
    "words",
    ["", "http", "port=80", "tcp=80,tcp=81", "tcp=http", "tcp=80,period_s=", "tcp=80,period_s=1.5", "tcp=80,http=80/"],
)
def test_words_that_make_no_probe_are_refused(words: str) -> None:
    assert refusal(parse_probe, "liveness", words) == "launch.probe"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("http=8080/health,perod_s=5", "'perod_s' says nothing"),
        ("http=8080/health,depth=5", "'depth' says nothing"),
        ("command=bin/check --quick,perod_s=5", "'perod_s' says nothing"),
        ("tcp=0", "ports are 1 to 65535"),
        ("tcp=70000", "ports are 1 to 65535"),
        ("tcp=12345678901", "ports are 1 to 65535"),
        ("tcp=abc", "tcp of the liveness probe is not a number: 'abc'"),
        ("tcp=80,period_s=x", "period_s of the liveness probe is not a number: 'x'"),
        ("tcp=80,period_s=999999", "period_s of the liveness probe is 1 to 3600"),
        ("tcp=80,tcp=81", "tcp of the liveness probe is given twice"),
        ("tcp=80,success_threshold=2", "success_threshold of a liveness probe is 1"),
    ],
)
def test_what_is_wrong_with_the_words_of_a_probe_is_named_with_a_way_out(words: str, told: str) -> None:
    with pytest.raises(BundleError) as refused:
        parse_probe("liveness", words)
    assert (refused.value.code, told in refused.value.message, bool(refused.value.hint)) == ("launch.probe", True, True)


def test_the_fields_of_a_probe_their_limits_and_their_defaults_are_documented() -> None:
    document = FORMAT.read_text()
    for name in Probe.__struct_fields__:
        assert f"| `{name}` |" in document
    for name, (least, most) in LIMITS.items():
        assert f"| `{name}` | {least} to {most}, {getattr(Probe(), name)} |" in document


def test_the_number_of_the_data_schema_is_the_last_line_and_only_where_it_is_stated() -> None:
    stated = msgspec.structs.replace(LAUNCH, data_schema=20260101120000)
    assert stated.encode() == LAUNCH.encode() + b"data_schema=20260101120000\n"
    assert b"data_schema" not in canonical.encode(msgspec.to_builtins(LAUNCH))
    assert canonical.encode(msgspec.to_builtins(stated)).count(b'"data_schema":20260101120000') == 1


@pytest.mark.parametrize("value", ["", "-1", "1.5", "one", "00", "9007199254740992", "1" * 40, "\u0661"])
def test_what_is_no_number_of_a_schema_is_refused(value: str) -> None:
    code = refusal(parse, LAUNCH.encode() + f"data_schema={value}\n".encode())
    assert code in ("launch.value", "launch.syntax")


def test_every_key_of_the_file_is_documented() -> None:
    document = FORMAT.read_text()
    for line in (
        msgspec.structs.replace(LAUNCH, data_schema=1, probes=Probes(confirm=True)).encode().decode().splitlines()
    ):
        assert f"`{line.partition('=')[0]}`" in document
    for family in ("boot_var.N", "arg.N", "env.N", "probe_KIND_FIELD"):
        assert f"`{family}`" in document


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "-a"},
        {"vsn": "1/2"},
        {"erts": "$x"},
        {"boot": ""},
        {"boot": "/etc/start"},
        {"boot": "../start"},
        {"config": "a\nkind=mix"},
        {"args_src": "a//b"},
        {"env_sh": "/env.sh"},
        {"args": ("a\nb",)},
        {"args": ("",)},
        {"args": ("x",) * 65},
        {"args": ("x" * 1025,)},
        {"environment": ("1A",)},
        {"environment": ("A=B",)},
        {"boot_vars": {"lib": "lib"}},
        {"boot_vars": {"LIB": "/usr/lib"}},
        {"boot_vars": {"A=B": "lib"}},
    ],
)
def test_a_value_that_the_launcher_would_misread_is_refused(change: dict[str, Any]) -> None:
    assert refusal(msgspec.structs.replace(LAUNCH, **change).encode) == "launch.value"


@pytest.mark.parametrize(
    "probes",
    [
        Probes(http=""),
        Probes(http="8080"),
        Probes(http="http://127.0.0.1:80/"),
        Probes(http="0/"),
        Probes(http="65536/"),
        Probes(http="080/"),
        Probes(http="80/a b"),
        Probes(http="80/\n"),
        Probes(http="80/" + "a" * 1022),
        Probes(command=""),
        Probes(command="/bin/sh"),
        Probes(command="../x"),
        Probes(command="bin/a  b"),
        Probes(command="bin/a\nb"),
        Probes(command=" bin/a"),
        Probes(timeout_s=0),
        Probes(timeout_s=61),
        Probes(liveness=Probe()),
        Probes(liveness=Probe(http="80/", tcp=80)),
        Probes(liveness=Probe(http="80")),
        Probes(liveness=Probe(tcp=65536)),
        Probes(liveness=Probe(tcp=-1)),
        Probes(readiness=Probe(command="../x")),
        Probes(startup=Probe(erlang="os:cmd(x)")),
        Probes(startup=Probe(erlang="a'b:c")),
        Probes(startup=Probe(erlang="Module")),
        Probes(startup=Probe(tcp=80, period_s=0)),
        Probes(startup=Probe(tcp=80, timeout_s=61)),
        Probes(startup=Probe(tcp=80, initial_delay_s=-1)),
        Probes(liveness=Probe(tcp=80, success_threshold=2)),
        Probes(startup=Probe(tcp=80, failure_threshold=0)),
        Probes(confirm=False),
    ],
)
def test_a_probe_that_cannot_be_run_is_refused(probes: Probes) -> None:
    assert refusal(msgspec.structs.replace(LAUNCH, probes=probes).encode) == "launch.probe"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b"more=1\n"),
        (b"kind=relx\n", b""),
        (b"kind=relx", b"kind=docker"),
        (b"kind=relx\n", b"kind=relx\nkind=relx\n"),
        (b"env_sh=\n", b"env_sh=\narg.1=x\n"),
        (b"env_sh=\n", b"env_sh=\narg.x=x\n"),
        (b"env_sh=\n", b"env_sh=\n\n"),
        (b"timeout_s=5", b"timeout_s=five"),
        (b"timeout_s=5", b"timeout_s=05"),
        (b"timeout_s=5\n", b"timeout_s=5\nprobe_liveness_tcp=80\nprobe_liveness_period_s=10\n"),
        (b"timeout_s=5\n", b"timeout_s=5\nprobe_liveness_tcp=080\n"),
        (b"timeout_s=5\n", b"timeout_s=5\nprobe_liveness_port=80\n"),
        (b"timeout_s=5\n", b"timeout_s=5\nprobe_liveness_\n"),
        (b"timeout_s=5\n", b"timeout_s=5\nprobe_confirm=no\n"),
        (b"probe_http=\n", b"probe_http\n"),
        (b"kind=relx\nname=my_app\n", b"name=my_app\nkind=relx\n"),
        (b"my_app", b"\xff"),
    ],
)
def test_another_spelling_of_the_file_is_refused(before: bytes, after: bytes) -> None:
    data = LAUNCH.encode()
    assert refusal(parse, data.replace(before, after, 1) if before else data + after).startswith("launch.")


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    assert refusal(parse, data).startswith("launch.")
