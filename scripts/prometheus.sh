#!/usr/bin/env bash
# Makes promtool available: on the PATH, or in the cache, out of Debian's package. No daemon is installed or started.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
command -v promtool || { [ -x "$cache/bin/promtool" ] || apt_program prometheus usr/bin/promtool; }
