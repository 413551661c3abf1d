#!/usr/bin/env bash
# One capture, read and replayed by pushplane, tshark and tcpreplay, one after the other: datagrams a second, and CPU
# (user + system) a datagram. Needs a release build; a peer that is not installed (apt-get install tshark tcpreplay) is
# left out, and said so. tcpreplay sends on loopback and needs root.
#
#   tools/peers/replay.sh [DATAGRAMS]
set -euo pipefail
cd "$(dirname "$0")/../.."

pushplane=${PUSHPLANE:-target/release/pushplane}
datagrams=${1:-1000000}
[ -x "$pushplane" ] || { echo "$pushplane is not there: cargo build --release" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Exits 1 when this machine could not keep the schedule of the run at a fixed rate; the captures are there all the same.
"$pushplane" bench replay --datagrams "$datagrams" --folder "$work" --keep --seconds 1 --json \
  >"$work/bench.json" 2>"$work/bench.err" || [ $? -eq 1 ]
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
    printf "%-44s %12.0f %10.0f %8s\n", name, n / wall, cpu, ours > 0 ? sprintf("%.1f", cpu / ours) : "1.0"
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
# shellcheck disable=SC2046
row "pushplane replay --server, as fast as it goes" \
  $(timed "$pushplane" replay "$capture" --server "$sink" --timing topspeed --wait 0)
if ! command -v tcpreplay >/dev/null; then
  echo "tcpreplay is not installed: left out" >&2
elif [ "$(id -u)" -ne 0 ]; then
  echo "tcpreplay needs root: left out" >&2
else
  # shellcheck disable=SC2046
  row "tcpreplay --topspeed -K" $(timed tcpreplay --quiet --topspeed --preload-pcap -i lo "$capture")
fi
