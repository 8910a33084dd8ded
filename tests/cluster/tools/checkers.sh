#!/usr/bin/env bash
# The independent tools that the tests hold manifests and networks against, into $BIN: kubeconform through the Go module proxy,
# network-config-analyzer from PyPI. What is there in its pinned version stays.
# usage: checkers.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
: "${BIN:?the folder that the binaries go to}"

KUBECONFORM=v0.8.0
# NP-Guard's analyser in Python; the one in Go (netpol-analyzer) is not to be had through every module proxy.
NETWORK_CONFIG_ANALYZER=2.1.0

mkdir -p "$BIN"
stamp=$BIN/.kubeconform-$KUBECONFORM
if [ ! -x "$BIN/kubeconform" ] || [ ! -e "$stamp" ]; then
  CGO_ENABLED=0 GOBIN=$BIN GOFLAGS=-trimpath go install -ldflags "-s -w" "github.com/yannh/kubeconform/cmd/kubeconform@$KUBECONFORM"
  rm -f "$BIN/.kubeconform-"*
  touch "$stamp"
fi
venv=$BIN/network-config-analyzer-$NETWORK_CONFIG_ANALYZER
if [ ! -x "$venv/bin/nca" ]; then
  "$here/../../../.ci/venv" "$venv" "network-config-analyzer==$NETWORK_CONFIG_ANALYZER"
fi
ln -sf "$venv/bin/nca" "$BIN/nca"
