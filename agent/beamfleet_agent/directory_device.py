"""Owns the script that stands for the init of a device in a directory; never runs it."""

import shlex


def run_script(python: str) -> str:
    """DIR/run, which keeps launcher and agent of DIR running under this interpreter."""
    return RUN.replace("@PYTHON@", shlex.quote(python))


RUN = r"""#!/bin/sh
# Stands for the init of this directory device: keeps its launcher and its agent running, with a pause of a second.
# TERM ends both and waits for them. Laid down by `beamfleet-agent setup`.
set -u
dir=$(cd "$(dirname "$0")" && pwd -P) || exit 1
mkdir -p "$dir/var/run/beamfleet/main" || exit 1
exec 9>>"$dir/var/run/beamfleet/init.lock" </dev/null
flock -n 9 || {
  echo "error: process $(cat "$dir/var/run/beamfleet/init.pid") runs $dir already (run.already_running)" >&2
  echo "hint: one is enough; end that process to start anew" >&2
  exit 1
}
echo $$ >"$dir/var/run/beamfleet/init.pid"

keep() { # COMMAND...: respawn it until TERM
  leaving='' child=''
  trap 'leaving=yes; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM INT HUP
  while [ -z "$leaving" ]; do
    "$@" 9>&- &
    child=$!
    finish "$child"
    [ -z "$leaving" ] || break
    sleep 1 9>&- &
    child=$!
    finish "$child"
  done
}

finish() { # wait, also through signals; a TERM that came before the child was known reaches it here
  [ -z "${leaving:-}" ] || kill -TERM "$1" 2>/dev/null
  while kill -0 "$1" 2>/dev/null; do wait "$1"; done
}

keep sh "$dir/usr/lib/beamfleet/launcher" "$dir" &
launcher=$!
keep @PYTHON@ -I -m beamfleet_agent run --root "$dir" &
agent=$!
leaving=''
trap 'kill -TERM "$agent" "$launcher" 2>/dev/null' TERM INT HUP
finish "$agent"
finish "$launcher"
"""
