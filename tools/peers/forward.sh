#!/usr/bin/env bash
# What forwarding costs pushplane and its peers, in one run: `bench forward`, which brings the bare loops (recvmmsg and
# sendmmsg, io_uring) with it, and the forwarders that are started here, on the CPU that the bench gives each of its own.
# Needs a release build; a peer that is not installed (apt-get install nginx-light libnginx-mod-stream; cargo install
# quilkin --version 0.10.0) is left out, and said so.
#
# The best of all rounds counts, and each turn begins with a flood that is not measured, in which sessions are made and
# buffers grow; nginx and quilkin need some five rounds before their figures settle. All have the same socket buffers.
#
#   tools/peers/forward.sh [--hops N] [--json] [any other option of `pushplane bench forward`]
set -euo pipefail
cd "$(dirname "$0")/../.."

pushplane=${PUSHPLANE:-target/release/pushplane}
[ -x "$pushplane" ] || { echo "$pushplane is not there: cargo build --release" >&2; exit 2; }

. tools/peers/hops.sh "$@"

sink_port=19000
# The first CPU that is allowed: the bench keeps the last one for the generator.
cpu=$(taskset -cp $$ | sed 's/.*: //; s/[-,].*//')
work=$(mktemp -d)
started=()
end() {
  for process in "${started[@]}"; do kill "$process" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap end EXIT

hop() { echo "127.2.$((($1 + 1) / 256)).$((($1 + 1) % 256)):$sink_port"; }

peers=()

# nginx: one worker, so one process to watch. A session for each client keeps its socket and its next hop; a session for
# each datagram is what spreads one client's datagrams over all next hops.
nginx_forwarder() { # name, port, lines
  local folder=$work/$1 module= server
  mkdir "$folder"
  for module in /usr/lib/nginx/modules/ngx_stream_module.so /usr/share/nginx/modules/ngx_stream_module.so; do
    [ -e "$module" ] && break
  done
  {
    [ -e "$module" ] && echo "load_module $module;"
    echo "daemon off; master_process off; pid $folder/pid; error_log $folder/log crit;"
    echo "events { worker_connections 65536; }"
    echo "stream { upstream hops {"
    for ((server = 0; server < hops; server++)); do echo "server $(hop $server);"; done
    echo "} server { listen 127.0.0.1:$2 udp rcvbuf=1m sndbuf=1m; proxy_pass hops; $3 } }"
  } >"$folder/conf"
  taskset -c "$cpu" nginx -p "$folder" -c "$folder/conf" 2>"$folder/err" &
  started+=($!)
  await "$1" "$2" $! "$folder/err"
}

# Waits until a process listens, and has the bench watch it.
await() { # name, port, process, errors, and where it listens if not on loopback
  local hex
  hex=$(printf '%04X' "$2")
  for _ in $(seq 100); do
    if grep -qs ":$hex " /proc/net/udp /proc/net/udp6; then
      peers+=(--peer "$1=${5:-127.0.0.1}:$2/$3")
      return
    fi
    sleep 0.1
  done
  echo "$1 did not start and is left out: $(cat "$4")" >&2
}

if ! command -v nginx >/dev/null; then
  echo "nginx is not installed: left out" >&2
else
  ulimit -n 65536 2>/dev/null || true
  nginx_forwarder nginx_client 18001 "proxy_timeout 60s;"
  nginx_forwarder nginx_datagram 18002 "proxy_requests 1; proxy_responses 0;"
fi

# quilkin takes nothing that comes from 127.0.0.0/8: an address of this host's own that is not there.
address=$(hostname -I 2>/dev/null | tr ' ' '\n' | grep -m 1 -F . || true)
if ! command -v quilkin >/dev/null; then
  echo "quilkin is not installed: left out" >&2
elif ! quilkin --help 2>/dev/null | grep -q -- '--service.udp.workers'; then
  echo "this quilkin has no \"--service.udp.workers\", as 0.10 has: left out" >&2
elif [ -z "$address" ]; then
  echo "quilkin needs an IPv4 address besides loopback's: left out" >&2
else
  # Without a filter each datagram goes to every next hop; its balancer takes them in turn, which costs less than a lookup.
  {
    printf 'version: v1alpha1\nfilters:\n  - name: quilkin.filters.load_balancer.v1alpha1.LoadBalancer\n'
    printf '    config:\n      policy: ROUND_ROBIN\nclusters:\n  - endpoints:\n'
    for ((server = 0; server < hops; server++)); do printf '      - address: %s\n' "$(hop $server)"; done
  } >"$work/quilkin.yaml"
  taskset -c "$cpu" quilkin --provider.fs --provider.fs.path="$work/quilkin.yaml" --admin.address=127.0.0.1:18004 \
    --service.udp --service.udp.port=18003 --service.udp.workers=1 >"$work/quilkin" 2>&1 &
  started+=($!)
  await quilkin 18003 $! "$work/quilkin" "$address"
fi

"$pushplane" bench forward --sink "127.2.0.1:$sink_port" "${peers[@]}" "$@"
