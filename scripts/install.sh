#!/usr/bin/env bash
# Install one of clipsr's environments from constraints.txt.
#
#   scripts/install.sh ROLE FOLDER
#
# ROLE says what goes into the virtual environment FOLDER, which is made if it is not there yet:
#   container  client, gateway and serving beside a Triton that the machine already has (docker/Dockerfile)
#   serve      the same with the embedded Triton, editable (.venv-serve)
#   ui         the same with the web pages of clipsr-client ui
#   export     training, export and serving: what turns checkpoints into a model repository, editable (.venv)
#   dev        every room, and the tools that test and lint them, editable (.venv)
#   gpu        into a FOLDER made by one of these, on a machine with an NVIDIA GPU: onnxruntime with CUDA in the place
#              of the one for processors
#
# Environment:
#   PYTHON           interpreter to build with, 3.10 to 3.12 (default: python3, or the newest of these versions)
#   TORCH_INDEX_URL  package index with CPU builds of PyTorch, used in addition to pip's own. Without it pip takes
#                    what its own index offers, which on Linux may be a CUDA build of several gigabytes.
set -euo pipefail

fail() {
    printf 'install: %s\n' "$1" >&2
    exit 1
}

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
role=${1:-}
folder=${2:-}
cd -- "$root"

case $role in
    container) wanted=(./client './gateway[library,otel]' ./serving) ;;
    serve) wanted=(-e ./client -e './gateway[heif,library,otel]' -e './serving[heif,triton]') ;;
    ui) wanted=(-e './client[ui]' -e './gateway[heif,library,otel]' -e './serving[heif,triton]') ;;
    export) wanted=(-e ./serving -e ./training -e ./export) ;;
    dev) wanted=(-e './client[batch,export,ui]' -e './gateway[heif,library,otel]' -e './serving[heif]' -e ./training -e ./export -r requirements-dev.txt) ;;
    gpu) wanted=('onnxruntime-gpu[cuda,cudnn]') ;;
    *) fail "unknown role '$role'; use: install.sh container|serve|ui|export|dev|gpu FOLDER" ;;
esac
[ -n "$folder" ] || fail "name the folder of the virtual environment: install.sh $role FOLDER"

if [ "$role" = gpu ]; then
    nvidia-smi -L > /dev/null 2>&1 || fail "there is no NVIDIA GPU here (nvidia-smi -L lists none)"
    [ -x "$folder/bin/python" ] || fail "there is no environment in '$folder'; make it first: install.sh serve $folder"
fi

# The first Python that will do; if none does, what is wrong with the first one.
chosen=
objection=
for candidate in ${PYTHON:-python3 python3.12 python3.11 python3.10}; do
    if ! command -v "$candidate" > /dev/null; then
        reason="is not there: install Python 3.10 to 3.12 (Debian, Ubuntu: apt-get install python3 python3-venv)"
    elif reason=$("$candidate" scripts/check_python.py); then
        chosen=$candidate
        break
    fi
    objection=${objection:-$candidate $reason}
done
[ -n "$chosen" ] || fail "$objection"

if ! "$folder/bin/python" -m pip --version > /dev/null 2>&1; then
    "$chosen" -m venv --clear "$folder" || fail "could not make a virtual environment in '$folder'"
fi

options=(--no-input --disable-pip-version-check --constraint constraints.txt)
if [ -n "${TORCH_INDEX_URL:-}" ]; then
    options+=(--extra-index-url "$TORCH_INDEX_URL")
fi
log=$folder/install-$role.log
printf 'install: %s into %s (minutes the first time; details in %s)\n' "$role" "$folder" "$log"
if [ "$role" = gpu ]; then
    # Both distributions fill the same folder: one must be gone before the other comes.
    "$folder/bin/python" -m pip uninstall --yes onnxruntime onnxruntime-gpu > /dev/null 2>&1
fi
if ! "$folder/bin/python" -m pip install "${options[@]}" "${wanted[@]}" > "$log" 2>&1; then
    tail -n 25 -- "$log" >&2
    fail "pip failed; the whole story is in $log"
fi
