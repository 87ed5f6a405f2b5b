"""`python -m tests.trust.fuzz.campaign DECODER SECONDS FOLDER`: atheris on one decoder, for so long; FOLDER gets what
it finds. Exits 0 when nothing was found."""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["beamfleet_bundles"]):
    from tests.trust.fuzz.decoders import decoders, kept


def main(name: str, seconds: str, folder: Path) -> None:
    """Ends the process."""
    decoder = decoders()[name]
    inputs = folder / "inputs"
    inputs.mkdir(parents=True)
    for number, data in enumerate([*decoder.seeds, *kept(name)]):
        (inputs / f"{number}").write_bytes(data)
    words = [f"-max_total_time={seconds}", f"-artifact_prefix={folder}/", "-timeout=10", "-rss_limit_mb=1024"]
    atheris.Setup([sys.argv[0], *words, "-print_final_stats=1", str(inputs)], decoder.take)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
