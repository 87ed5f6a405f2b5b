#!/bin/sh
# Flashes the running Linux system that it is on, step by step, so that it can all be taken back:
#
#   hold SECONDS          stays while the flashing machine is there; when that is silent so long, takes everything back
#   recover               takes back what an interrupted flash left; refuses while another one is at work
#   put NAME SIZE         a file from standard input
#   begin                 remembers all that the following steps may change
#   install | setup | provision | seed | start | remove
#   undo | keep | wipe
#
# What is remembered lies in /var/lib/beamfleet-flash until `keep`, so that a device that lost its power can be mended
# as well. The identity and the journal of an enrolled device are not part of it: they are never put back to older ones.
# Runs as root under dash and BusyBox ash. When a step fails, the last line on standard error is WHY, a tab, the remedy.
set -u
umask 077
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
LC_ALL=C
export PATH LC_ALL
readonly home=/var/lib/beamfleet-flash
readonly agent=beamfleet-agent.service launcher=beamfleet-launcher.service first=beamfleet-setup.service
readonly services='beamfleet-launcher beamfleet-agent'
readonly own='/usr/lib/beamfleet /etc/beamfleet' state=/var/lib/beamfleet installed=/usr/lib/beamfleet/installed
readonly busy=75
shared='/etc/passwd /etc/passwd- /etc/group /etc/group- /etc/shadow /etc/shadow- /etc/gshadow /etc/gshadow-'
readonly shared="$shared /var/lib/dpkg/status"

fail() { # WHY REMEDY [STATUS]
  printf '%s\t%s\n' "$1" "$2" >&2
  exit "${3:-1}"
}
have() { command -v "$1" >/dev/null 2>&1; }
by_systemd() { [ -d /run/systemd/system ]; }
by_dpkg() { [ -s /var/lib/dpkg/status ] && have dpkg; }
active() { by_systemd && systemctl --quiet is-active "$1"; }
write() { # NAME: standard input, whole or not at all
  cat >"$home/$1.new" && mv -f "$home/$1.new" "$home/$1" && sync
}
alive() { # FILE with a pid and the boot it is of
  [ -s "$1" ] && read -r pid boot <"$1" || return 1
  [ "$boot" = "$(cat /proc/sys/kernel/random/boot_id)" ] && kill -0 "$pid" 2>/dev/null
}
myself() { echo "$$ $(cat /proc/sys/kernel/random/boot_id)"; }

# --- who is at work

wait_for_step() { # a step that still runs ends by itself: nothing is taken back under its hands
  waited=0
  while alive "$home/step" && [ "$waited" -lt 300 ]; do sleep 1 && waited=$((waited + 1)); done
}

hold() { # SECONDS
  mkdir "$home/claim" 2>/dev/null || fail 'another flash has just begun here' 'let it end first' "$busy"
  trap '' HUP PIPE INT TERM
  myself >"$home/holder"
  rm -f "$home/beats" "$home/gone"
  exec 3<&0
  (
    beats=0
    while read -r _; do beats=$((beats + 1)) && echo "$beats" >"$home/beats"; done
    : >"$home/gone"
  ) <&3 2>/dev/null &
  reader=$!
  echo holding
  heard='' silent=0
  while [ -d "$home/claim" ] && [ ! -e "$home/gone" ] && [ "$silent" -lt "$1" ]; do
    sleep 1
    beats=$(cat "$home/beats" 2>/dev/null)
    if [ "$beats" = "$heard" ]; then silent=$((silent + 1)); else silent=0 heard=$beats; fi
  done
  kill -KILL "$reader" 2>/dev/null # TERM is ignored; and it must not outlive us: `gone` would be said of the next one
  wait_for_step
  [ ! -d "$home/claim" ] || { take_back && clear; } >/dev/null 2>&1
}

recover() {
  waited=0
  while alive "$home/holder"; do
    [ "$waited" -lt 90 ] || fail 'another flash works on this device' 'let it end first' "$busy"
    sleep 1 && waited=$((waited + 1))
  done
  wait_for_step
  take_back || fail 'what an interrupted flash left here cannot be taken back' "look into $home on the device"
  rm -rf "$home/claim" "$home/holder" "$home/step" "$home/gone" "$home/beats"
}

put() { # NAME SIZE
  cat >"$home/$1.new"
  [ "$(wc -c <"$home/$1.new")" -eq "$2" ] || fail "$1 has not arrived whole" 'free some space on the device'
  mv -f "$home/$1.new" "$home/$1"
}

# --- remembering

listed() { # what is there of us, and what may change beside it, one path a line
  cat "$home/paths" 2>/dev/null
  [ ! -e "$installed" ] || cat "$installed"
  ! by_dpkg || dpkg -L beamfleet-agent 2>/dev/null
  # shellcheck disable=SC2086 # many words
  printf '%s\n' $shared /etc/.pwd.lock /etc/inittab /run/beamfleet-agent.installing "$state/seed.bundle" "$state/apps" \
    /var/lib/dpkg/status-old /var/lib/dpkg/available /var/lib/dpkg/available-old
  for unit in "$launcher" "$agent" "$first"; do echo "/etc/systemd/system/multi-user.target.wants/$unit"; done
  for each in $services; do printf '/etc/%s\n' "init.d/$each" "runlevels/default/$each"; done
  ours
}
ours() { # what is there in the places that are ours alone
  # shellcheck disable=SC2046,SC2086
  find $own $(forgettable) -path /usr/lib/beamfleet/hooks.d -prune -o -path "$state/apps/*/*" -prune -o -print \
    2>/dev/null
  [ ! -d /var/lib/dpkg/info ] || find /var/lib/dpkg/info -name 'beamfleet-agent*'
  [ ! -d /var/lib/dpkg/updates ] || find /var/lib/dpkg/updates /var/lib/dpkg/triggers -type f
  [ ! -d /var/lib/rpm ] || find /var/lib/rpm -type f
  [ ! -d /usr/lib/sysimage/rpm ] || find /usr/lib/sysimage/rpm -type f
}
forgettable() { [ -e "$home/enrolled" ] || echo "$state"; }

begin() {
  [ ! -e "$home/phase" ] || return 0
  rm -rf "$home/before" "$home/enrolled"
  mkdir "$home/before" || fail 'the device cannot be written to' 'is its disk full, or read-only?'
  for each in pair.pem cert.pem; do [ ! -e "$state/identity/$each" ] || : >"$home/enrolled"; done
  for unit in "$launcher" "$agent"; do ! active "$unit" || : >"$home/before/active.$unit"; done
  [ -d /run/beamfleet ] || : >"$home/before/no_run"
  by_rpm_paths
  : >"$home/all" && : >"$home/files" && : >"$home/directories" && : >"$home/absent"
  listed | with_parents >"$home/new" && remember
  for each in $own "$state"; do [ -e "$each" ] || echo "$each" >>"$home/absent"; done
  (
    cd / || exit 1
    set --
    while read -r path; do
      case $path in /etc/beamfleet* | /var/lib/beamfleet* | /usr/lib/beamfleet) set -- "$@" "${path#/}" ;; esac
    done <"$home/directories"
    [ $# = 0 ] || tar --no-recursion --numeric-owner -cf "$home/before/modes.tar" "$@"
  ) || fail 'tar cannot remember the modes of directories' 'install tar, or a BusyBox whose tar knows --no-recursion'
  for each in $shared; do sum "$each"; done >"$home/sums"
  sync
  echo open | write phase
}
with_parents() { awk -F/ '{ print; at = ""; for (i = 2; i < NF; i++) print at = at "/" $i }' | sort -u; }
remember() { # the paths in `new`, those that are remembered already aside
  { echo / && cat "$home/all"; } >"$home/known"
  grep -Fvx -f "$home/known" "$home/new" >"$home/more"
  : >"$home/carried"
  while read -r path; do
    if [ -L "$path" ] || [ -f "$path" ]; then
      echo "$path" >>"$home/carried"
    elif [ -d "$path" ]; then
      echo "$path" >>"$home/directories"
    elif [ ! -e "$path" ]; then
      echo "$path" >>"$home/absent"
    fi
  done <"$home/more"
  mkdir -p "$home/before/root"
  carry / "$home/before/root" <"$home/carried" ||
    fail 'what is there cannot be remembered' 'free some space on the device'
  cat "$home/carried" >>"$home/files" && cat "$home/more" >>"$home/all"
}
pack() { tar --no-recursion --numeric-owner -cf "$home/carried.tar" "$@" 2>/dev/null; }
carry() ( # FROM TO: the paths on standard input, many at a time
  to=$2
  cd "$1" || exit 1
  while :; do
    set --
    while [ $# -lt 200 ] && read -r path; do set -- "$@" "${path#/}"; done
    [ $# -gt 0 ] || exit 0
    pack "$@" || pack "$@" || exit 1 # an agent that runs may replace a file meanwhile
    tar --numeric-owner -xpf "$home/carried.tar" -C "$to" || exit 1
    rm -f "$home/carried.tar"
  done
)
by_rpm_paths() {
  [ ! -e "$home/package.rpm" ] || rpm -qlp "$home/package.rpm" >"$home/paths" || fail 'rpm cannot read the package' ''
}
sum() { [ ! -f "$1" ] || sha256sum "$1"; }
note_sums() { for each in $shared; do sum "$each"; done >"$home/sums_after"; } # what the accounts are by our doing

# --- taking back

take_back() {
  if [ -e "$home/phase" ]; then
    echo undoing | write phase
    quieten
    forget_new
    put_back || return 1
    rm -f "$home/phase" && sync
    wake
  fi
  rm -rf "$home/before"
}
quieten() {
  ! by_systemd || {
    systemctl --quiet stop "$first" "$agent" 2>/dev/null
    [ -e "$home/before/active.$launcher" ] || systemctl --quiet stop "$launcher" 2>/dev/null
  }
  [ -e "$home/before/no_run" ] || return 0
  by_systemd || {
    for each in $services; do [ ! -e "/etc/init.d/$each" ] || rc-service "$each" stop; done >/dev/null 2>&1
    [ ! -f /etc/inittab ] || without_block | inittab
    end_processes
  }
}
end_processes() { # without systemd: once init does not start them again
  reread_inittab
  for each in /run/beamfleet/agent.pid /run/beamfleet/main/launcher.pid; do
    [ ! -s "$each" ] || kill "$(cat "$each")" 2>/dev/null
  done
}
foreign() { # PATH: whether somebody else has changed this file of accounts since our step
  [ -s "$home/sums_after" ] || return 1
  case " $shared " in *" $1 "*) ;; *) return 1 ;; esac
  now=$(sum "$1")
  [ -n "$now" ] || grep -Fq "  $1" "$home/sums_after" || return 1
  ! grep -Fqx "${now:-absent}" "$home/sums_after" && ! grep -Fqx "${now:-absent}" "$home/sums"
}
forget_new() {
  [ ! -f /etc/beamfleet/given ] || cp /etc/beamfleet/given "$home/laid"
  ! foreign /var/lib/dpkg/status || grep -q '/info/beamfleet-agent.list$' "$home/files" ||
    dpkg --purge --force-remove-reinstreq beamfleet-agent >/dev/null 2>&1
  for each in $own $state $state/apps; do ! grep -Fqx "$each" "$home/absent" || rm -rf "$each"; done 2>/dev/null
  { echo / && cat "$home/files" "$home/directories"; } >"$home/known"
  ours | grep -Fvx -f "$home/known" | sort -r | while read -r path; do drop "$path"; done
  sort -r "$home/absent" | while read -r path; do
    if { [ -e "$path" ] || [ -L "$path" ]; } && ! foreign "$path"; then drop "$path"; fi
  done
  [ ! -f "$home/laid" ] || grep -Fvx -f "$home/known" "$home/laid" | while read -r path; do drop "$path"; done
  grep -v '^/usr/lib/beamfleet' "$home/all" | while read -r path; do rm -f "$path.dpkg-new" "$path.dpkg-tmp"; done
  [ ! -e "$home/before/no_run" ] || rm -rf /run/beamfleet
}
drop() { # PATH
  if [ -d "$1" ] && [ ! -L "$1" ]; then rmdir "$1" 2>/dev/null; else rm -f "$1"; fi
}
put_back() {
  grep '^/usr/' "$home/files" | carry "$home/before/root" / || return 1
  while read -r path; do
    case $path in /usr/*) continue ;; esac
    ! foreign "$path" || continue
    mkdir -p "${path%/*}" && rm -rf "$path.beamfleet-undo" || return 1
    cp -a "$home/before/root$path" "$path.beamfleet-undo" && echo "$path" || return 1
  done <"$home/files" >"$home/back"
  sync # not every file system writes the data before the name
  while read -r path; do mv -f "$path.beamfleet-undo" "$path" || return 1; done <"$home/back"
  [ ! -e "$home/before/modes.tar" ] || tar --numeric-owner -xpf "$home/before/modes.tar" -C / || return 1
  sync
}
wake() {
  by_systemd || reread_inittab
  ! by_systemd || {
    systemctl daemon-reload
    systemctl --quiet reset-failed "$launcher" "$agent" "$first" 2>/dev/null
    for unit in "$launcher" "$agent"; do [ ! -e "$home/before/active.$unit" ] || systemctl start "$unit"; done
  }
  return 0
}
clear() { # more than once: a beat may just be noted there
  rm -rf "$home/claim"
  for _ in 1 2 3 4 5; do
    ! rm -rf "$home" 2>/dev/null || return 0
    sleep 1
  done
}

# --- the steps

install() {
  if [ -e "$home/package.deb" ] && by_dpkg; then
    (umask 022 && DEBIAN_FRONTEND=noninteractive dpkg --install "$home/package.deb") >"$home/said" 2>&1 || refused dpkg
  elif [ -e "$home/package.rpm" ]; then
    (umask 022 && rpm -U --replacepkgs --oldpackage "$home/package.rpm") >"$home/said" 2>&1 || refused rpm
  else
    unpack
  fi
  note_sums
  rm -f "$home"/package.* "$home/files.tar"
  sync
}
refused() { # PACKAGER
  why=$(sed -n 's/^dpkg: error[^:]*: *//p; s/^ \(beamfleet-agent depends on .*\)$/\1/p; s/^error: //p' "$home/said" |
    head -n 3 | tr '\n\t' '; ')
  [ -n "$why" ] || why=$(tail -n 1 "$home/said" | tr '\t' ' ')
  fail "$1 did not install it: $why" 'install what it names on the device, or wait for its packager, then flash again'
}
unpack() {
  users
  [ ! -e "$installed" ] || grep -Fvx -f "$home/paths" "$installed" | sort -r | while read -r path; do drop "$path"; done
  (umask 022 && cd / && tar -xf "$home/files.tar") ||
    fail 'the package cannot be unpacked' 'free some space on the device'
  cp "$home/paths" "$installed.new" && chmod 644 "$installed.new" && mv -f "$installed.new" "$installed"
  if by_systemd; then
    systemd-tmpfiles --create beamfleet.conf 2>/dev/null
    systemctl daemon-reload
    for unit in "$launcher" "$agent" "$first"; do
      [ ! -e "/usr/lib/systemd/system/$unit" ] || systemctl --quiet enable "$unit" || fail "$unit cannot be enabled" ''
    done
    systemctl try-restart "$agent"
  else
    lines
  fi
}
users() {
  for each in beamfleet beamfleet-app; do
    ! grep -q "^$each:" /etc/passwd || continue
    if have useradd; then
      useradd --system --user-group --no-create-home --home-dir / --shell /sbin/nologin "$each"
    elif have adduser && have addgroup; then
      addgroup -S "$each" && adduser -S -D -H -h / -s /sbin/nologin -G "$each" "$each"
    else
      false
    fi >/dev/null 2>&1 || fail "the user $each cannot be made" 'make beamfleet and beamfleet-app, each with a group'
  done
}
lines() { # where no systemd is; `init` and the texts come from there
  case $(cat "$home/init") in
  openrc)
    for each in $services; do
      cp "$home/$each" "/etc/init.d/$each" && chmod 755 "/etc/init.d/$each"
      rc-update -q add "$each" default || fail "OpenRC does not take $each" 'see rc-update'
    done
    ;;
  *) { [ ! -f /etc/inittab ] || without_block && cat "$home/inittab"; } | inittab ;;
  esac
}
without_block() { sed '/^# beamfleet: begin$/,/^# beamfleet: end$/d' /etc/inittab; }
inittab() { # on standard input
  cat >/etc/inittab.beamfleet && chmod 644 /etc/inittab.beamfleet && sync && mv -f /etc/inittab.beamfleet /etc/inittab
}
reread_inittab() { [ ! -f /etc/inittab ] || kill -HUP 1; }

setup() { # it has the last word over what the next boot would have made
  { cat "$home/given" && networks; } | with_parents >"$home/new" && remember
  sync
  rm -f /etc/beamfleet/provision.json
  (umask 022 && exec beamfleet-agent setup) # directories that it makes for given files are for all to enter
}
provision() {
  mkdir -p /etc/beamfleet && chmod 755 /etc/beamfleet &&
    mv -f "$home/provision.json" /etc/beamfleet/provision.json && sync && return
  fail 'its settings cannot be laid down' 'flash again'
}
networks() { # where setup writes what a device needs for Wi-Fi and modem
  find /etc/NetworkManager /etc/wpa_supplicant /etc/systemd/network /var/lib/systemd/rfkill -type f 2>/dev/null
  printf '%s\n' /etc/modprobe.d/beamfleet-wifi.conf /var/lib/NetworkManager/NetworkManager.state
  find /etc/systemd/system -type l -path '*.wants/*' 2>/dev/null
}
seed() {
  chown beamfleet:beamfleet "$home/seed.bundle" && chmod 644 "$home/seed.bundle" &&
    mv -f "$home/seed.bundle" "$state/seed.bundle" && return
  fail 'the bundle cannot be laid down' 'flash again'
}
start() {
  if [ -e /etc/beamfleet/provision.json ]; then
    (umask 022 && exec beamfleet-agent setup --first-boot) >"$home/said" 2>&1 ||
      fail "it does not set itself up: $(tail -n 1 "$home/said" | tr '\t' ' ')" 'beamfleet-agent setup --first-boot'
  fi
  if by_systemd; then
    systemctl daemon-reload
    for unit in "$agent" "$launcher"; do
      verb=start
      [ "$unit" != "$agent" ] || verb=restart
      systemctl "$verb" "$unit" || fail "$unit does not start" "journalctl -u $unit"
    done
  elif [ "$(cat "$home/init" 2>/dev/null)" = openrc ]; then
    for each in $services; do rc-service "$each" restart >"$home/said" 2>&1; done
  else
    reread_inittab
  fi
  waited=0
  until running; do
    [ "$waited" -lt 60 ] || fail 'its agent has not come up in a minute' 'journalctl -u beamfleet-agent'
    sleep 1 && waited=$((waited + 1))
  done
}
running() {
  beamfleet-agent status -o json >"$home/said" 2>&1 && grep -q '"agent": {' "$home/said" || return 1
  ! by_systemd || { active "$launcher" && active "$agent"; }
}

remove() {
  if by_dpkg && [ -e /var/lib/dpkg/info/beamfleet-agent.list ]; then
    DEBIAN_FRONTEND=noninteractive dpkg --purge beamfleet-agent >"$home/said" 2>&1 || refused dpkg
  elif have rpm && rpm -q beamfleet-agent >/dev/null 2>&1; then
    rpm -e beamfleet-agent >"$home/said" 2>&1 || refused rpm
  elif [ -e "$installed" ]; then
    if by_systemd; then
      systemctl --quiet disable "$first" "$launcher" "$agent" 2>/dev/null
      systemctl stop "$first" "$agent" "$launcher" 2>/dev/null
    else
      for each in $services; do
        [ ! -e "/etc/init.d/$each" ] || rc-service "$each" stop
        rc-update -q del "$each"
        rm -f "/etc/init.d/$each"
      done >"$home/said" 2>&1
      [ ! -f /etc/inittab ] || without_block | inittab
      end_processes
    fi
    sort -r "$installed" | while read -r path; do drop "$path"; done
    rm -f "$installed" && drop /usr/lib/beamfleet
    ! by_systemd || systemctl daemon-reload
  fi
  sync
}
keep() { rm -f "$home/phase" && sync && clear; }
wipe() { # after `remove`, in the place of `keep`: what is wiped cannot be taken back
  rm -f "$home/phase" && sync
  [ ! -f /etc/beamfleet/given ] || while read -r path; do # what setup laid down elsewhere: a Wi-Fi's secret, files
    case $path in */../* | */..) ;; /*) rm -f "$path" ;; esac
  done </etc/beamfleet/given
  rm -rf /etc/beamfleet /run/beamfleet || exit 1
  rm -rf "$state" 2>/dev/null || [ -z "$(ls -A "$state")" ] || exit 1 # a mount point stays
  sync && clear
}
undo() {
  wait_for_step
  myself >"$home/step"
  take_back || fail 'not all of it could be taken back' "look into $home on the device"
  clear
}

[ "$(id -u)" = 0 ] || fail 'this is for root' 'log in as root, or let this user use sudo'
step=$1
shift
case $step in
hold | recover | undo) ;; # which wait for a step
*) myself >"$home/step" && trap 'rm -f "$home/step"' EXIT ;;
esac
"$step" "$@"
