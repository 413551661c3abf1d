#!/usr/bin/env bash
# One capture, read and replayed by pushplane, a plain sender, tshark, tcpreplay and udpreplay, one after the other:
# datagrams a second, and CPU (user + system) a datagram. Needs root, for a network namespace of its own where everything
# goes to one socket that nobody reads, python3, for that socket, and a release build. A peer that is not installed
# (apt-get install tshark tcpreplay; udpreplay is github.com/rigtorp/udpreplay) is left out, and said so.
#
# Then the senders keep a rate for five seconds, while dumpcap notes when the kernel saw each datagram: how late it was
# against the absolute schedule that the earliest of them kept, and how late the last one was. The plain sender is that of
# `pushplane bench replay`: a call of the kernel and a sleep a datagram, until each is due or as long as lies between two.
#
#   tools/peers/replay.sh [DATAGRAMS [RATE]]
set -euo pipefail
cd "$(dirname "$0")/../.."

pushplane=${PUSHPLANE:-target/release/pushplane}
datagrams=${1:-1000000}
rate=${2:-20000}
[ -x "$pushplane" ] || { echo "$pushplane is not there: cargo build --release" >&2; exit 2; }
[ "$(id -u)" -eq 0 ] || { echo "needs root, for a network namespace of its own" >&2; exit 2; }
command -v python3 >/dev/null || { echo "needs python3, for a socket that nobody reads" >&2; exit 2; }
# Nothing of this reaches the host's network.
[ -n "${REPLAY_NAMESPACE:-}" ] || REPLAY_NAMESPACE=yes exec unshare --net "$0" "$@"

work=$(mktemp -d)
sink_pid=
trap '[ -z "$sink_pid" ] || kill "$sink_pid"; rm -rf "$work"' EXIT
ip link set lo up
"$pushplane" bench replay --only plain-topspeed --datagrams "$datagrams" --folder "$work" --keep --json \
  >"$work/bench.json" 2>"$work/bench.err" || { cat "$work/bench.err" >&2; exit 1; }
kept=$(sed -n 's/^kept: //p' "$work/bench.err")
[ -n "$kept" ] || { cat "$work/bench.err" >&2; exit 1; }
capture=$kept/prp.pcap

# The server that all datagrams of the capture were for, in the first Ethernet frame of a pcap file.
sink=$(od -An -tu1 -j 70 -N 8 "$capture" | awk '{ print $1 "." $2 "." $3 "." $4 ":" $7 * 256 + $8 }')
ip address add "${sink%:*}/32" dev lo
python3 -c '
import signal, socket, sys
host, port = sys.argv[1].split(":")
sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sink.bind((host, int(port)))
signal.pause()' "$sink" &
sink_pid=$!

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

has() {
  command -v "$1" >/dev/null || { echo "$1 is not installed: left out" >&2; return 1; }
}

printf '%-44s %12s %10s %8s\n' "$datagrams datagrams of 154 bytes" "a second" "ns CPU" "× ours"
ours=0
# shellcheck disable=SC2046
set -- $(timed "$pushplane" replay "$capture" --tables "$kept/bench.ppt")
row "pushplane replay, every decision made" "$@"
ours=$(awk -v n="$datagrams" -v user="$2" -v sys="$3" 'BEGIN { print (user + sys) / n * 1e9 }')
# shellcheck disable=SC2046
if has tshark; then
  row "tshark -q, dissected and counted" $(timed tshark -r "$capture" -q -z io,stat,0)
fi

ours=0
# shellcheck disable=SC2046
set -- $(timed "$pushplane" replay "$capture" --server "$sink" --timing topspeed --wait 0)
row "pushplane replay --server, as fast as it goes" "$@"
ours=$(awk -v n="$datagrams" -v user="$2" -v sys="$3" 'BEGIN { print (user + sys) / n * 1e9 }')
# shellcheck disable=SC2046
row "a plain sender" $(python3 -c '
import json, sys
of = json.load(open(sys.argv[1]))["runs"][0]
print(of["seconds"], of["figures"]["cpu_ns"] * of["sent"] / 1e9, 0)' "$work/bench.json")
# shellcheck disable=SC2046
if has tcpreplay; then
  row "tcpreplay --topspeed --preload-pcap" $(timed tcpreplay --quiet --topspeed --preload-pcap -i lo "$capture")
fi
# shellcheck disable=SC2046
if has udpreplay; then
  row "udpreplay -s 0" $(timed udpreplay -s 0 "$capture")
fi

# What a sender does at a rate: microseconds behind the schedule of the datagram that was the earliest by its own. (The
# first one is no measure: it is late itself, by what a sender does for the first time.)
lateness() { # name, command…
  local name=$1 pid
  shift
  dumpcap -q -i lo -B 64 -f "udp dst port ${sink#*:}" -w "$work/seen.pcapng" >"$work/dumpcap" 2>&1 &
  pid=$!
  sleep 1
  # 1 is what a sender exits with that could not keep the schedule: what it did is there all the same.
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
  sort -n "$work/late" | awk -v name="$name" -v last="$last" 'NR == 1 { least = $1 } { late[NR] = $1 - least } END {
    if (NR == 0) { print name ": nothing was seen"; exit }
    at = "%-44s %9d seen %9.1f %9.1f %9.1f %9.1f\n"
    printf at, name, NR, late[int((NR - 1) * 0.5) + 1], late[int((NR - 1) * 0.99) + 1], late[NR], last - least
  }'
}

has dumpcap && has tshark || exit 0
count=$((rate * 5))
[ "$count" -le "$datagrams" ] || count=$datagrams
printf '\n%-44s %14s %9s %9s %9s %9s\n' "late at $rate a second, microseconds" "" p50 p99 most last
lateness "pushplane replay --timing pps" "$pushplane" replay "$capture" --server "$sink" \
  --timing pps --speed "$rate" --limit "$count" --wait 0
for pace in plain-rate plain-sleeps; do
  lateness "$pace" "$pushplane" bench replay --only "$pace" --sink "$sink" --datagrams "$count" --rate "$rate" \
    --users 1000 --folder "$work"
done
if has tcpreplay; then
  lateness "tcpreplay --pps" tcpreplay --quiet --pps "$rate" --limit "$count" --preload-pcap -i lo "$capture"
fi
if has udpreplay; then
  # Datagrams are a microsecond apart in the capture; it knows factors of that time.
  editcap -F nsecpcap -r "$capture" "$work/part.pcap" "1-$count"
  slower=$(awk -v rate="$rate" 'BEGIN { print 1e6 / rate }')
  lateness "udpreplay -s $slower" udpreplay -s "$slower" "$work/part.pcap"
fi
