#!/usr/bin/env bash
# One capture, read and replayed by pushplane, tshark and tcpreplay, one after the other: datagrams a second, and CPU
# (user + system) a datagram. Needs a release build; a peer that is not installed (apt-get install tshark tcpreplay) is
# left out, and said so. tcpreplay sends on loopback and needs root.
#
# Then both senders keep a rate for five seconds, while dumpcap notes when the kernel saw each datagram: how late it was
# against an absolute schedule from the first one on, and how late the last one was.
#
#   tools/peers/replay.sh [DATAGRAMS [RATE]]
set -euo pipefail
cd "$(dirname "$0")/../.."

pushplane=${PUSHPLANE:-target/release/pushplane}
datagrams=${1:-1000000}
rate=${2:-20000}
[ -x "$pushplane" ] || { echo "$pushplane is not there: cargo build --release" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Exits 1 when this machine could not keep the schedule of the run at a fixed rate; the captures are there all the same.
"$pushplane" bench replay --datagrams "$datagrams" --folder "$work" --keep --seconds 1 --json \
  >"$work/bench.json" 2>"$work/bench.err" || [ $? -eq 1 ] || { cat "$work/bench.err" >&2; exit 1; }
kept=$(sed -n 's/^kept: //p' "$work/bench.err")
[ -n "$kept" ] || { cat "$work/bench.err" >&2; exit 1; }
capture=$kept/prp.pcap

# Wall, user and system seconds of a command, to standard output; what it prints goes to a file.
timed() {
  local TIMEFORMAT='%R %U %S'
  { time "$@" >"$work/out" 2>"$work/err"; } 2>&1
}

row() { # name, seconds
  awk -v name="$1" -v n="$datagrams" -v wall="$2" -v user="$3" -v sys="$4" -v ours="$ours" 'BEGIN {
    cpu = (user + sys) / n * 1e9
    printf "%-44s %12.0f %10.0f %8s\n", name, n / wall, cpu, (ours > 0 ? sprintf("%.1f", cpu / ours) : "1.0")
  }'
}

printf '%-44s %12s %10s %8s\n' "$datagrams datagrams of 154 bytes" "a second" "ns CPU" "× ours"
ours=0
# shellcheck disable=SC2046
set -- $(timed "$pushplane" replay "$capture" --tables "$kept/bench.ppt")
row "pushplane replay, every decision made" "$@"
ours=$(awk -v n="$datagrams" -v user="$2" -v sys="$3" 'BEGIN { print (user + sys) / n * 1e9 }')

if command -v tshark >/dev/null; then
  # shellcheck disable=SC2046
  row "tshark -q, dissected and counted" $(timed tshark -r "$capture" -q -z io,stat,0)
else
  echo "tshark is not installed: left out" >&2
fi

sink=127.0.0.1:9
can_tcpreplay=
if ! command -v tcpreplay >/dev/null; then
  echo "tcpreplay is not installed: left out" >&2
elif [ "$(id -u)" -ne 0 ]; then
  echo "tcpreplay needs root: left out" >&2
else
  can_tcpreplay=yes
fi
# shellcheck disable=SC2046
row "pushplane replay --server, as fast as it goes" \
  $(timed "$pushplane" replay "$capture" --server "$sink" --timing topspeed --wait 0)
if [ -n "$can_tcpreplay" ]; then
  # shellcheck disable=SC2046
  row "tcpreplay --topspeed --preload-pcap" $(timed tcpreplay --quiet --topspeed --preload-pcap -i lo "$capture")
fi

# What a sender does at a rate: microseconds behind the schedule of the first datagram.
lateness() { # name, filter, command…
  local name=$1 filter=$2 pid
  shift 2
  dumpcap -q -i lo -B 64 -f "$filter" -w "$work/seen.pcapng" >"$work/dumpcap" 2>&1 &
  pid=$!
  sleep 1
  "$@" >"$work/out" 2>"$work/err" || [ $? -eq 1 ]
  sleep 1
  kill -INT "$pid"
  wait "$pid" || true
  # Datagrams that left together are one frame on loopback, as long as all of them.
  tshark -r "$work/seen.pcapng" -T fields -e frame.time_epoch -e udp.length 2>/dev/null |
    awk -v rate="$rate" -v bytes=112 'NR == 1 { first = $1 } {
      for (all = int(($2 - 8 + bytes - 1) / bytes); all > 0; all--) {
        printf "%.3f\n", ($1 - first - (seen / rate)) * 1e6
        seen += 1
      }
    }' >"$work/late"
  last=$(tail -n 1 "$work/late")
  sort -n "$work/late" | awk -v name="$name" -v last="$last" '{ late[NR] = $1 } END {
    if (NR == 0) { print name ": nothing was seen"; exit }
    at = "%-44s %9d seen %9.1f %9.1f %9.1f %9.1f\n"
    printf at, name, NR, late[int((NR - 1) * 0.5) + 1], late[int((NR - 1) * 0.99) + 1], late[NR], last
  }'
}

if ! command -v dumpcap >/dev/null || [ "$(id -u)" -ne 0 ]; then
  echo "no dumpcap, or not root: lateness is left out" >&2
  exit
fi
count=$((rate * 5))
[ "$count" -le "$datagrams" ] || count=$datagrams
printf '\n%-44s %14s %9s %9s %9s %9s\n' "late at $rate a second, microseconds" "" p50 p99 most last
lateness "pushplane replay --timing pps" "udp dst port 9" "$pushplane" replay "$capture" --server "$sink" \
  --timing pps --speed "$rate" --limit "$count" --wait 0
if [ -n "$can_tcpreplay" ]; then
  lateness "tcpreplay --pps" "udp src port 5000" tcpreplay --quiet --pps "$rate" --limit "$count" --preload-pcap -i lo \
    "$capture"
fi
