#!/usr/bin/env bash
# Builds what the local cluster is made of and what Debian does not have, through the Go module proxy, into $BIN. What is
# there in its pinned version stays. From nothing it takes some 15 minutes on two cores.
# usage: build.sh
set -euo pipefail
cd "$(dirname "$0")"
: "${BIN:?the folder that the binaries go to}"

KUBERNETES=v1.36.3
ISTIO=v0.0.0-20260827124520-eed52ebb66ad
ISTIO_NAME=1.31.0-e2e   # what istiod calls itself; the module's own version says nothing
CONTAINERD=v2.3.7
COREDNS=v1.14.7
KUBE_NETWORK_POLICIES=v1.1.1

mkdir -p "$BIN"
# Flags are part of the cache's key: one that changes costs minutes.
export CGO_ENABLED=0 GOBIN=$BIN GOFLAGS=-trimpath

# made NAME VERSION COMMAND...: runs what makes $BIN/NAME, unless it is there in this version
made() {
  local name=$1 version=$2 start=$SECONDS stamp=$BIN/.$1-$2
  shift 2
  [ -x "$BIN/$name" ] && [ -e "$stamp" ] && return
  printf '   %-28s %s\n' "$name" "$version"
  "$@"
  rm -f "$BIN/.$name-"*
  touch "$stamp"
  printf '   %-28s %s s\n' "" "$((SECONDS - start))"
}

# installed MODULE PACKAGE VERSION LDFLAGS
installed() { go install -ldflags "-s -w ${4:-}" "$1/$2@$3"; }

# A module that replaces parts of itself cannot be installed by name: k8s/go.mod says the same from outside.
kubernetes() {
  local package=k8s.io/component-base/version
  go -C k8s build -o "$BIN/$1" -ldflags "-s -w -X $package.gitVersion=$KUBERNETES -X $package.gitMajor=1 -X $package.gitMinor=36 \
    -X $package.gitTreeState=clean -X $package.gitCommit=unknown -X $package.buildDate=1970-01-01T00:00:00Z" "k8s.io/kubernetes/cmd/$1"
}

# Not to be installed by name where the proxy has no list of its versions: knp/go.mod names its modules.
kube_network_policies() {
  GOFLAGS="$GOFLAGS -mod=mod" go -C knp build -ldflags "-s -w" -o "$BIN/kube-network-policies" \
    sigs.k8s.io/kube-network-policies/cmd/kube-network-policies/standard
}

for name in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do
  made "$name" "$KUBERNETES" kubernetes "$name"
done
istio="-X istio.io/istio/pkg/version.buildVersion=$ISTIO_NAME -X istio.io/istio/pkg/version.buildTag=$ISTIO_NAME"
for package in pilot/cmd/pilot-discovery pilot/cmd/pilot-agent istioctl/cmd/istioctl; do
  made "${package##*/}" "$ISTIO" installed istio.io/istio "$package" "$ISTIO" "$istio"
done
# A sidecar's bootstrap is made from a template that istio's images carry and its module holds.
made_from_istio() { install -m 644 "$(go env GOMODCACHE)/istio.io/istio@$ISTIO/tools/packaging/common/envoy_bootstrap.json" "$BIN/envoy_bootstrap.json"; }
[ -s "$BIN/envoy_bootstrap.json" ] || made_from_istio
for name in containerd containerd-shim-runc-v2 ctr; do
  made "$name" "$CONTAINERD" installed github.com/containerd/containerd/v2/cmd "$name" "$CONTAINERD"
done
made coredns "$COREDNS" installed github.com/coredns coredns "$COREDNS"
made kube-network-policies "$KUBE_NETWORK_POLICIES" kube_network_policies
