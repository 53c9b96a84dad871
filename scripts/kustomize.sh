#!/usr/bin/env bash
# Makes a kustomize available that renders k8s/: kubectl's own (1.21 and newer), else one built with Go into the cache.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
if command -v kustomize || [ -x "$cache/bin/kustomize" ]; then exit; fi
if kubectl kustomize k8s/base >/dev/null 2>&1; then exit; fi
command -v go >/dev/null || apt_install golang-go ca-certificates
say "building kustomize"
GOBIN=$cache/bin GOFLAGS=-modcacherw go install sigs.k8s.io/kustomize/kustomize/v5@v5.0.3
