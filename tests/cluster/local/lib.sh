# Sourced by the scripts of the local cluster: real Kubernetes servers, kubelet and istiod as plain processes in a *box*, that
# is network, mount and process namespaces of its own. Nothing listens outside it, and everything dies with its first process.
# All state lies under $ROOT.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export ROOT=${ROOT:-$(cd "$HERE/../../.." && pwd)/target/cluster}
export BIN=${BIN:-$ROOT/bin} STATE=$ROOT/state IMAGES=$ROOT/images
export PKI=$STATE/pki RUN=$STATE/run LOG=$STATE/log
export NODE_IP=10.250.0.1 POD_CIDR=10.244.0.0/24
export SERVICE_CIDR=10.96.0.0/16 KUBERNETES_IP=10.96.0.1 DNS_IP=10.96.0.10
export KUBECONFIG=$PKI/admin.kubeconfig
export PATH=$BIN:$PATH
CONTAINERD=/run/containerd/containerd.sock
# Where the box's registry listens; the overlay for kind names it so.
export REGISTRY=kind-registry:5000

# inbox COMMAND...: runs something inside the box
inbox() { nsenter --target "$(<"$RUN/box.pid")" --net --mount --pid --wdns="$PWD" -- "$@"; }

k() { inbox kubectl "$@"; }

# daemon NAME COMMAND...: a background process inside the box, its output in $LOG/NAME.log
daemon() {
  local name=$1 child; shift
  inbox setsid "$@" </dev/null >"$LOG/$name.log" 2>&1 &
  # nsenter forks to enter a process namespace: the daemon is its child.
  wait_for 10 "$name to start" pgrep --parent $!
  child=$(pgrep --parent $!)
  echo "$child" >"$RUN/$name.pid"
}

# wait_for SECONDS WHAT COMMAND...
wait_for() {
  local end=$((SECONDS + $1)) what=$2; shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "waited in vain for $what; logs are in $LOG" >&2; return 1; }
    sleep 0.1
  done
}

started=${EPOCHREALTIME/,/.}
say() { printf '   %5.1f s  %s\n' "$(bc <<<"${EPOCHREALTIME/,/.} - $started")" "$*"; }

# filled FILE: with the variables that it names
# shellcheck disable=SC2016 # envsubst wants the names, not what they stand for
filled() { envsubst '$NODE_IP $POD_CIDR $DNS_IP $PKI $STATE $CGROUP $REGISTRY' <"$1"; }
export CGROUP=${CGROUP:-/ostiary-e2e}
