"""What leaves the device of a release's words: no secret, and everything that helps to see why."""

import string

import pytest
from beamfleet_agent.redaction import GONE, redact
from hypothesis import example, given
from hypothesis import strategies as st

WORDS = ["password", "PASSWORD", "db_passwd", "token", "apiToken", "client_secret", "API_KEY", "private-key", "cookie",
         "passphrase", "secret_key_base"]  # fmt: skip
FORMS = ["{}={}", "{}: {}", '"{}": "{}"', '{{{},"{}"}}', '#{{{} => <<"{}">>}}', '%{{"{}" => "{}"}}',
         '[{}: "{}"]', "?{}={}&x=1", "{}='{}'", "--{} {}"]  # fmt: skip
LETTERS = string.ascii_letters + string.digits + "!$%^*+./_-"
SECRET = st.builds("Zq9{}".format, st.text(LETTERS, min_size=6, max_size=60))


@given(st.sampled_from(WORDS), st.sampled_from(FORMS[:-1]), SECRET)
def test_what_follows_a_word_for_a_secret_is_gone(word: str, form: str, secret: str) -> None:
    assert "Zq9" not in redact(f"before {form.format(word, secret)} and more")


@pytest.mark.parametrize("word", ["password", "token", "api-key"])
def test_a_secret_on_a_command_line_is_gone(word: str) -> None:
    assert redact(f"exec tool --{word} hunter2 --port 80") == f"exec tool --{word} {GONE} --port 80"


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("GET / Authorization: Bearer abc.def ghi", f"GET / Authorization: {GONE}"),
        ("set-cookie: a=b; c=d", f"set-cookie: {GONE}"),
        ('{credentials,{"anna","hunter2"}}', f"{{credentials,{GONE}"),
        ("postgres://anna:p@ss@db:5432/fleet", f"postgres://{GONE}@db:5432/fleet"),
        ("mqtts://h:1 https://u:p@h/x", f"mqtts://h:1 https://{GONE}@h/x"),
        ("{key,[115,101,99]}", f"{{key,{GONE}"),
        ('%{password: ~c"hunter2", port: 80}', f"%{{password: {GONE}, port: 80}}"),
        ("erl -name a@b -setcookie hunter2 -noinput", f"erl -name a@b -setcookie {GONE} -noinput"),
        ("db_pass=hunter2 pw: hunter3", f"db_pass={GONE} pw: {GONE}"),
        ("digest 0123456789abcdef0123456789abcdef end", f"digest {GONE} end"),
        ("eyJhbGciOi.eyJzdWIi.c2lnbmF0dXJl ok", f"{GONE} ok"),
        ("a\n-----BEGIN PRIVATE KEY-----\nMIGH\nAgEA\n-----END PRIVATE KEY-----\nb", f"a\n{GONE}\nb"),
        ("a\n-----BEGIN EC PRIVATE KEY-----\nMIGH\n", f"a\n{GONE}"),
        ("AgEA\nMIGH==\n-----END PRIVATE KEY-----\nb", f"{GONE}\nb"),
        ("got " + "aB3/" * 11 + "aB3dEf6hIjKlMn0pQr", f"got {GONE}"),
    ],
)  # fmt: skip
def test_secrets_of_each_kind_are_gone(said: str, left: str) -> None:
    assert redact(said) == left


@pytest.mark.parametrize(
    "said",
    [
        "Kernel pid terminated (application_controller) ({application_start_failure,gateway,{bad_return,shutdown}})",
        "** (exit) {badkey,limit} in gen_server:call/2 line 385",
        "/var/lib/beamfleet/apps/main/slots/current/lib/gateway-1.1.0/ebin/gateway_sup.beam",
        "some_very_long_function_name_that_nobody_would_type_twice_in_a_row/3",
        'eheap_alloc: Cannot allocate 1048576 bytes of memory (of type "heap").',
        "2026-11-29T22:46:29.123456+00:00 error: <0.123.0> #Ref<0.1.2.3>",
        "the checks pass, the bypass: opened by hand",
        "[info] Running GatewayWeb.Endpoint with cowboy 2.10.0 at 127.0.0.1:4000 (http)",
    ],
)
def test_what_helps_to_see_why_stays(said: str) -> None:
    assert redact(said) == said


@given(st.text(max_size=400))
@example("password=[redacted]")
def test_once_is_enough(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "piece",
    [
        "password", 'password="\\', "-----BEGIN A-----", "://", "a://b", "key,[", "cookie:", "eyJaaaaaa.", "aB3",
        "0", "\\", "A\n", "--key ", "<<", "'", "pass", "pw=~a",
    ],
)  # fmt: skip
def test_hostile_text_takes_its_length_of_time(piece: str) -> None:
    text = piece * (500_000 // len(piece))
    assert len(redact(text)) <= 2 * len(text) + 100, "and of room"
