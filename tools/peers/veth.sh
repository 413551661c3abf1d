#!/usr/bin/env bash
# What forwarding costs where each datagram crosses a network device of its own: pushplane, bare loops (recvmmsg and
# sendmmsg, io_uring) and the kernel's own nftables, which forwards without any process.
#
#   load and next hops, last CPU          forwarders, first CPU
#   ┌──────────────────────────┐  veth  ┌───────────────────────────┐
#   │ generator  198.18.0.1    ├────────┤ 198.18.0.2  a socket each │
#   │ sink       198.19.x.y    │  veth  ├───────────────────────────┤
#   │                          ├────────┤ 198.18.0.6  nftables      │
#   └──────────────────────────┘        └───────────────────────────┘
#
# The kernel's rules have a namespace to themselves, for every rule costs whatever passes it. CPU time is all that the
# forwarders' CPU does, interrupts included, for all of them alike: so nothing else should run there. Datagrams cross one
# by one, as on a wire: the load's devices segment in software. What is received is worked on by the forwarders' CPU: for
# sockets by the NAPI thread of a device with GRO, as that of a card would be, pinned there; for the kernel's rules, which
# GRO only costs something, by RPS. Rows that do not coalesce what they receive get it one by one from the same device.
#
# Needs a release build, root, ip (iproute2), ethtool; and nft (nftables) for the kernel's row.
#
#   tools/peers/veth.sh [--hops N] [any other option of `pushplane bench forward`]
set -euo pipefail
cd "$(dirname "$0")/../.."

pushplane=${PUSHPLANE:-target/release/pushplane}
[ -x "$pushplane" ] || { echo "$pushplane is not there: cargo build --release" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "network namespaces need root: nothing is measured" >&2; exit 2; }
for tool in ip ethtool; do
  command -v $tool >/dev/null || { echo "$tool is not installed: nothing is measured" >&2; exit 2; }
done

. tools/peers/hops.sh "$@"

port=19000
# As the bench: forwarders have the first CPU that is allowed, generator and sink the last one.
cpus=$(taskset -cp $$ | sed 's/.*: //')
first=${cpus%%[-,]*} last=${cpus##*[-,]}
# Of the forwarders' end of each pair; it names the device's NAPI thread, which is seen from everywhere.
device=p$$
load=pushplane-$$-load sockets=pushplane-$$-sockets kernel=pushplane-$$-kernel
end() {
  for namespace in "$load" "$sockets" "$kernel"; do ip netns del "$namespace" 2>/dev/null || true; done
}
trap end EXIT

# The bits of one CPU, as sysfs has them: groups of 32, the highest first.
mask() {
  local groups
  printf -v groups '%x' $((1 << $1 % 32))
  for ((group = $1 / 32; group > 0; group--)); do groups+=,00000000; done
  echo "$groups"
}

# Writes a setting of a network device, or of the namespace.
set_to() { ip netns exec "$1" sh -c "echo $3 > $2"; }

# Whose received datagrams are worked on by which CPU.
steer() { set_to "$1" "/sys/class/net/$2/queues/rx-0/rps_cpus" "$(mask "$3")"; }

for namespace in "$load" "$sockets" "$kernel"; do
  ip netns add "$namespace"
  ip -n "$namespace" link set lo up
  # The way back need not be the way out, and the load's own addresses come back from outside.
  for setting in rp_filter=0 accept_local=1 send_redirects=0 forwarding=1; do
    set_to "$namespace" "/proc/sys/net/ipv4/conf/all/${setting%=*}" "${setting#*=}"
    set_to "$namespace" "/proc/sys/net/ipv4/conf/default/${setting%=*}" "${setting#*=}"
  done
done
# Any address of the next hops is the load's own.
ip -n "$load" route add local 198.19.0.0/16 dev lo

# A pair of devices between the load and a namespace: the load's name for it, and both addresses.
join() { # namespace, device, near, far
  ip -n "$load" link add "$2" type veth peer name "$device" netns "$1"
  ip -n "$load" addr add "$3/30" dev "$2"
  ip -n "$1" addr add "$4/30" dev "$device"
  ip -n "$load" link set dev "$2" up
  ip -n "$1" link set dev "$device" up
  ip -n "$1" route add 198.19.0.0/16 via "$3"
  # A device that could segment TCP itself hands nothing to the other end's NAPI.
  ip netns exec "$load" ethtool -K "$2" tso off tx-udp-segmentation off gro off
  steer "$load" "$2" "$last"
}
join "$sockets" to-sockets 198.18.0.1 198.18.0.2
join "$kernel" to-kernel 198.18.0.5 198.18.0.6

peers=()
if ! command -v nft >/dev/null; then
  echo "nft is not installed: the kernel's own forwarding is left out" >&2
else
  # Stateless, the next hops in turn: the least that rules can do. Looking for the next hop in the PUSH, as the bare loops
  # do (@th,432,16 in place of numgen), costs somewhat more; "dnat" too, and connection tracking sends all of a sender's
  # datagrams to one next hop.
  {
    printf 'table ip forward {\nchain to_hops {\ntype filter hook prerouting priority raw;\n'
    printf 'udp dport %s ip daddr set numgen inc mod %s map { ' "$port" "$hops"
    for ((hop = 0; hop < hops; hop++)); do
      printf '%d : 198.19.%d.%d, ' $hop $(((hop + 1) / 256)) $(((hop + 1) % 256))
    done
    printf '}\n}\n}\n'
  } | ip netns exec "$kernel" nft -f -
  peers+=(--peer "nftables=198.18.0.6:$port/to-kernel")
fi

ip netns exec "$sockets" ethtool -K "$device" gro on
set_to "$sockets" "/sys/class/net/$device/threaded" 1
for thread in $(pgrep "^napi/$device-"); do taskset -cp "$first" "$thread" >/dev/null; done
steer "$kernel" "$device" "$first"

ip netns exec "$load" "$pushplane" bench forward --namespace "$sockets=198.18.0.2" --sink "198.19.0.1:$port" \
  "${peers[@]}" "$@"
