#!/bin/sh
# Tells what a running Linux system is, as KEY=value lines: sh -s TOOL... Changes nothing; what it tries, it tries in an
# empty directory of its own. Runs under dash and BusyBox ash, as root where it may be.
set -u
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
LC_ALL=C
export PATH LC_ALL

have() { command -v "$1" >/dev/null 2>&1; }
tell() { printf '%s=%s\n' "$1" "$2"; }

tell begin yes # what came before is the login's

# --- machine and system

arch=$(uname -m)
case $(head -c 5 /bin/sh | tail -c 1 | od -An -tu1 2>/dev/null | tr -d ' ') in
1) # a 64-bit kernel may carry a system of 32 bits
  case $arch in aarch64) arch=armv7l ;; x86_64) arch=i686 ;; esac
  ;;
esac
tell arch "$arch"
[ ! -r /etc/os-release ] || tell os "$(sed -n 's/^PRETTY_NAME=//p' /etc/os-release | head -n 1 | tr -d '"')"

python=''
for each in /usr/bin/python3 /usr/local/bin/python3; do
  [ ! -x "$each" ] || [ -n "$python" ] || python=$each
done
[ -n "$python" ] || python=$(command -v python3)
if [ -n "$python" ]; then
  version=$("$python" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
  [ -z "$version" ] || { tell python "$version" && tell python_path "$python"; }
fi

glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null)
[ -n "$glibc" ] || [ -z "$python" ] ||
  glibc=$("$python" -I -c 'import os; print(os.confstr("CS_GNU_LIBC_VERSION"))' 2>/dev/null)
case $glibc in
glibc*) tell libc glibc && tell libc_version "${glibc#glibc }" ;;
*)
  for each in /lib/ld-musl-*.so.1; do [ ! -e "$each" ] || tell libc musl; done
  for each in /lib/ld-linux*.so.* /lib64/ld-linux*.so.*; do [ ! -e "$each" ] || tell libc glibc; done
  ;;
esac

first=$(readlink /proc/1/exe 2>/dev/null)
if [ -d /run/systemd/system ]; then
  tell init systemd
elif [ -d /run/openrc ] && have rc-service; then
  tell init openrc
else
  case $first in
  */busybox*) tell init busybox ;;
  *) [ ! -e /etc/inittab ] || tell init sysvinit ;;
  esac
fi

if [ -s /var/lib/dpkg/status ] && have dpkg; then
  tell packager dpkg
elif have opkg; then
  tell packager opkg
elif have apk && [ -e /lib/apk/db/installed ]; then
  tell packager apk
elif have rpm && { [ -d /var/lib/rpm ] || [ -d /usr/lib/sysimage/rpm ]; }; then
  tell packager rpm
fi
tell clock_s "$(date +%s)"
tell user "$(id -u)"

# --- where things will lie

place() { # PATH: it, or what is there of it
  at=$1
  while [ ! -e "$at" ] && [ "$at" != / ]; do at=$(dirname "$at"); done
  echo "$at"
}
mounted() { df -Pk "$(place "$1")" 2>/dev/null | awk 'NR > 1 { print $6 }' | tail -n 1; }

least=''
for each in /usr/lib /var/lib/beamfleet; do
  free=$(df -Pk "$(place "$each")" 2>/dev/null | awk 'NR > 1 { print $4 }' | tail -n 1)
  case $free in '' | *[!0-9]*) continue ;; esac
  if [ -z "$least" ] || [ "$free" -lt "$least" ]; then least=$free; fi
done
[ -z "$least" ] || tell free_kib "$least"
inodes=$(df -Pi "$(place /var/lib/beamfleet)" 2>/dev/null | awk 'NR > 1 && $2 > 0 { print $4 }' | tail -n 1)
case $inodes in '' | *[!0-9]*) ;; *) tell free_inodes "$inodes" ;; esac

for each in /usr/lib /etc /var/lib; do
  awk -v point="$(mounted "$each")" '$2 == point { options = $4 } END { exit options !~ /^ro(,|$)/ }' /proc/mounts &&
    tell read_only "$each"
done

slots=$(mounted /var/lib/beamfleet)
tell filesystem "$(awk -v point="$slots" '$2 == point { kind = $3 } END { print kind }' /proc/mounts)"
number=$(awk -v point="$slots" '$5 == point { number = $3 } END { print number }' /proc/self/mountinfo)
disk=$(readlink "/sys/dev/block/$number")
disk=${disk##*/}
journal=no
case $(cat "/sys/fs/ext4/$disk/journal_task" 2>/dev/null) in '' | *[!0-9]*) ;; *) journal=yes ;; esac
for each in "/proc/fs/jbd2/$disk"-*; do [ ! -e "$each" ] || journal=yes; done
tell journal "$journal"

# --- what it can do

for each; do ! have "$each" || tell tool "$each"; done
! have busybox || busybox --list 2>/dev/null | while read -r each; do tell applet "$each"; done
if have ldconfig && [ -e /etc/ld.so.cache ]; then
  ldconfig -p 2>/dev/null | awk '$2 ~ /^\(/ { print $1 }'
else
  find /lib /lib64 /usr/lib /usr/lib64 /usr/local/lib -maxdepth 2 -name '*.so.*' 2>/dev/null | sed 's|.*/||'
fi | sort -u | while read -r each; do tell library "$each"; done

empty=$(mktemp -d)
trap 'rm -rf "$empty"' EXIT
SETPRIV=$(command -v setpriv)
[ -n "$SETPRIV" ] || SETPRIV=setpriv
can() { # NAME, and a few words of sh on standard input that do it
  words=$(cat)
  rm -rf "$empty/tried" && mkdir "$empty/tried"
  (cd "$empty/tried" && BEAMFLEET=b SETPRIV="$SETPRIV" sh -c "$words" </dev/null >/dev/null 2>&1) || tell lacking "$1"
}
# As the agent's `abilities` has them; a test holds the two together.
can 'flock' <<'E'
exec 9>lock && flock -n 9
E
can 'sync FILE' <<'E'
echo x >file && sync file && sync .
E
can 'mv -T' <<'E'
ln -s a link1 && ln -s b link2 && mv -fT link1 link2 && [ -L link2 ]
E
can 'mkfifo -m' <<'E'
mkfifo -m 0620 fifo && [ -p fifo ]
E
can 'timeout -k' <<'E'
timeout -k 1 9 true
E
can 'head -c' <<'E'
[ "$(head -c 3 /dev/zero | tail -c 1 | wc -c)" = 1 ]
E
can 'dd' <<'E'
echo | dd bs=1k count=1 2>/dev/null >copy && [ -s copy ]
E
can 'sha256sum' <<'E'
[ "$(echo | sha256sum | cut -d ' ' -f 1 | wc -c)" = 65 ]
E
can 'ls -ldn' <<'E'
set -- $(ls -ldn .) && [ "$3" = "$(id -u)" ]
E
can 'grep -lszF' <<'E'
[ "$(grep -lszF BEAMFLEET=b /dev/null /proc/self/environ)" = /proc/self/environ ]
E
can 'grep -vE' <<'E'
[ "$(echo a | grep -vE '^(b|c)$')" = a ]
E
can 'readlink, sed, tr' <<'E'
[ -n "$(readlink /proc/self/cwd | sed -n '1p' | tr -d x)" ]
E
can 'awk ENVIRON' <<'E'
[ "$(awk 'BEGIN { print ENVIRON["BEAMFLEET"] }')" = b ]
E
can 'sleep 0.05' <<'E'
sleep 0.05
E
can 'id, date, env -i' <<'E'
id -u >/dev/null && date +%s >/dev/null && env -i PATH="$PATH" true
E
can 'test -O and -nt' <<'E'
[ -O . ] && : >old && [ ! old -nt old ]
E
can 'command exec' <<'E'
! command exec 8<missing
E
[ "$(id -u)" != 0 ] || can 'setpriv --reuid' <<'E'
"$SETPRIV" --reuid 0 --regid 0 --clear-groups --no-new-privs true
E

# --- what there is of us

for each in beamfleet beamfleet-app; do
  ! grep -q "^$each:" /etc/passwd || tell account "$each"
done
for each in /usr/lib/beamfleet/python/lib/python3*/site-packages/beamfleet_agent/__init__.py; do
  [ ! -e "$each" ] || tell agent_version "$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$each" | head -n 1)"
done
[ ! -r /etc/beamfleet/agent.toml ] ||
  tell device "$(sed -n 's/^device = "\(.*\)"$/\1/p' /etc/beamfleet/agent.toml | head -n 1)"
for each in pair.pem cert.pem; do
  [ ! -e "/var/lib/beamfleet/identity/$each" ] || tell enrolled yes
done
[ ! -d /var/lib/beamfleet-flash ] || tell unfinished yes
tell end yes
