#!/usr/bin/env bash
# Makes .venv in the checkout and installs LMT² into it with the tested pins. Run by `make setup`.
set -euo pipefail
source "$(dirname "$0")/lib.sh"

find_python() {
    local name
    for name in ${PYTHON:-python3.11 python3.12 python3.13 python3}; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$name"
            return
        fi
    done
    die "no Python 3.11 or newer found: install one, or name it with PYTHON=/path/to/python"
}

if [ ! -x .venv/bin/pip ]; then
    python=$(find_python)
    # Debian packs the venv module's pip apart.
    "$python" -c 'import ensurepip' 2>/dev/null || apt_install python3-venv
    say "making .venv with $("$python" --version)"
    "$python" -m venv .venv
fi

pins=$(mktemp)
trap 'rm -f "$pins"' EXIT
if .venv/bin/python -c 'import torch' 2>/dev/null; then
    grep -v '^torch==' constraints.txt >"$pins" # an installed torch, say the CPU build, is kept
else
    cp constraints.txt "$pins"
    say "installing (torch from PyPI is the CUDA build: 4.7 GB on disk, also where there is no GPU)"
fi
.venv/bin/python -m pip install --disable-pip-version-check -q -c "$pins" -e '.[kafka,train,serve,postgres,dev]'
