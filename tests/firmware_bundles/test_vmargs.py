import os
import subprocess
from pathlib import Path

import pytest
from beamfleet_bundles.build.vmargs import Cleaned, Cleaner
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.refusal import refusal

VM_ARGS = "releases/1/vm.args"


def clean(text: str, path: str = VM_ARGS, more: dict[str, str] | None = None) -> Cleaned:
    files = {path: text, **(more or {})}
    folders = {"lib/patches"}
    return Cleaner(lambda name: files[name].encode(), lambda name: name in files or name in folders).clean(path)


def test_what_beamfleet_decides_is_taken_out_and_the_rest_stays_to_the_byte() -> None:
    cleaned = clean(
        "## Node\n-sname my_app@host  # the name\n-name   my_app@127.0.0.1\n-setcookie 'very secret'\n\n"
        "-heart -env HEART_BEAT_TIMEOUT 30\n+K true   +A 5\n-detached\n-noinput -noshell\n"
        "-env ERL_MAX_PORTS 4096\n-kernel inet_dist_listen_min 9100\n"
    )
    assert cleaned.data.decode() == (
        "## Node\n   # the name\n\n+K true   +A 5\n -noshell\n"
        "-env ERL_MAX_PORTS 4096\n-kernel inet_dist_listen_min 9100\n"
    )
    assert not cleaned.expand
    said = "\n".join(cleaned.notices)
    for flag in (
        "-sname my_app@host",
        "-name my_app@127.0.0.1",
        "-setcookie",
        "-heart",
        "-env HEART_BEAT_TIMEOUT 30",
        "-detached",
    ):
        assert f"{VM_ARGS}: {flag} is taken out" in said
    assert "secret" not in said


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "# -heart\n",
        "## -sname x\n+K true\n",
        "+K true # -heart\n",
        "-extra -heart -sname x\n",
        "-kernel '-heart'x y\n",
        '-env NAME "-heart"\n',
        "-hearty\n",
        "-env X -heart\n",
        '-eval "io:format(\\"#\\")"\n',
    ],
)
def test_what_only_looks_like_a_flag_stays(text: str) -> None:
    cleaned = clean(text)
    assert cleaned.data == text.encode()
    assert cleaned.notices == ()


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('"-heart"\n', ""),
        ("-he\\art\n", ""),
        ("-sname\n  my_app\n+K true\n", "+K true\n"),
        ("-sname my_app", ""),
        ("-setcookie node cookie +K true\n", "   +K true\n"),
        ("-name -odd\n+A 1\n", "+A 1\n"),
        ("-heart#comment\n", "#comment\n"),
        ("+K true\r\n-heart\r\n", "+K true\r\n"),
    ],
)
def test_flags_are_found_as_erlexec_finds_them(text: str, left: str) -> None:
    assert clean(text).data.decode() == left


def test_variables_of_a_template_are_one_piece() -> None:
    text = "-sname ${NODE:-my app}\n-setcookie ${COOKIE}\n+P ${MAX:-1000 # many}\n-env A ${B}\n"
    assert clean(text, VM_ARGS + ".src").data.decode() == "+P ${MAX:-1000 # many}\n-env A ${B}\n"


def test_other_argument_files_are_taken_in() -> None:
    more = {
        "releases/1/more.args": "-heart\n+A 7\n",
        "releases/1/again.args": "-args_file releases/1/more.args\n+S 1\n",
    }
    cleaned = clean("+K true\n-args_file releases/1/again.args\n+P 9\n", more=more)
    assert cleaned.data.decode().split() == ["+K", "true", "+A", "7", "+S", "1", "+P", "9"]
    assert len(cleaned.notices) == 3


def test_paths_of_the_release_no_longer_depend_on_the_working_directory() -> None:
    cleaned = clean(
        "-config releases/1/more\n-pa ./lib/patches\n-pz /opt/site\n", more={"releases/1/more.config": "[]."}
    )
    assert cleaned.data.decode() == "-config ${ROOTDIR}/releases/1/more\n-pa ${ROOTDIR}/lib/patches\n-pz /opt/site\n"
    assert cleaned.expand


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("-config /etc/site.config\n", {}),
        ("-config nowhere\n", {}),
        ("-args_file /etc/vm.args\n", {}),
        ("-args_file\n", {}),
        ("-args_file a\n", {"a": "-args_file a\n"}),
        ("-args_file a\n", {"a": "-extra x\n"}),
        ("-boot releases/1/other\n", {}),
        ("-config a\n+P ${MAX}\n", {"a.config": "[]."}),
        ("+K true\0\n", {}),
    ],
)
def test_what_cannot_be_repeated_on_a_device_is_refused(text: str, more: dict[str, str]) -> None:
    assert refusal(clean, text, more=more) == "release.vm_args"


# What erlexec itself makes of a file is the judge of how a file is read.

TAKEN = {"-heart", "-detached", "-sname", "-name", "-setcookie"}
WORD = st.text("abz09@.#'\"\\ ", min_size=1, max_size=6).filter(lambda word: word.strip())
FLAGS = st.one_of(
    st.tuples(st.sampled_from(["-heart", "-noshell", "-hidden"])),
    st.tuples(st.sampled_from(["-sname", "-name", "-setcookie", "-custom"]), WORD),
    st.tuples(st.just("-custom"), WORD, WORD),
    st.tuples(st.sampled_from(["+K", "+A", "+P"]), st.just("7")),
)
GAPS = st.sampled_from([" ", "\n", "\t ", "\n# a -heart in a comment\n", " #x\n\n", "\r\n"])


def quoted(word: str, how: int) -> str:
    if how == 0 and "'" not in word:
        return f"'{word}'"
    if how == 1 and '"' not in word:
        return f'"{word}"'
    return "".join(f"\\{letter}" if letter in "#'\"\\ " else letter for letter in word)


def erlexec(folder: Path, text: bytes) -> list[str]:
    """The arguments that erlexec would start the emulator with."""
    (folder / "vm.args").write_bytes(text)
    (bindir,) = Path("/usr/lib/erlang").glob("erts-*/bin")
    env = {
        "BINDIR": str(bindir),
        "ROOTDIR": "/usr/lib/erlang",
        "EMU": "beam",
        "PROGNAME": "erl",
        "PATH": os.environ["PATH"],
    }
    command = [str(bindir / "erlexec"), "-emu_args_exit", "-args_file", str(folder / "vm.args")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return done.stdout.split("\n")


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(FLAGS, GAPS, st.integers(0, 2)), max_size=6))
def test_erlexec_reads_the_cleaned_file_as_the_old_one_without_what_was_taken(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[tuple[str, ...], str, int]]
) -> None:
    def written(flags: list[tuple[tuple[str, ...], str, int]]) -> str:
        return (
            "".join(gap + gap.join([flag[0], *(quoted(word, how) for word in flag[1:])]) for flag, gap, how in flags)
            + "\n"
        )

    folder = tmp_path_factory.mktemp("args")
    kept = [item for item in drawn if item[0][0] not in TAKEN]
    assert erlexec(folder, clean(written(drawn)).data) == erlexec(folder, written(kept).encode())


@given(st.text(max_size=80))
def test_no_text_breaks_the_reader(text: str) -> None:
    assert refusal(clean, text) in ("", "release.vm_args")
