#!/usr/bin/env bash
# Install a baseline into a virtual environment of its own, from the versions in its requirements.txt.
#
#   benchmarks/baselines/install.sh openclip|onnx_int8|fastembed|litserve|infinity FOLDER [--lock]
#
# --lock installs from requirements.in instead and writes what came of it as requirements.txt: how the versions move.
#
# Environment:
#   PYTHON           interpreter to build with (default: python3.11 or python3.12, python3 otherwise)
#   TORCH_INDEX_URL  package index with the wanted builds of PyTorch (CPU or CUDA), in addition to pip's own
set -euo pipefail

fail() {
    printf 'install: %s\n' "$1" >&2
    exit 1
}

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
name=${1:-}
folder=${2:-}
[ -f "$here/$name/requirements.in" ] || fail "unknown baseline '$name'; use: install.sh openclip|onnx_int8|fastembed|litserve|infinity FOLDER"
[ -n "$folder" ] || fail "name the folder of the virtual environment: install.sh $name FOLDER"
lock=$here/$name/requirements.txt
from=$lock
if [ "${3:-}" = --lock ]; then
    from=$here/$name/requirements.in
fi

stamp=$folder/.installed
if [ "$from" = "$lock" ] && [ -f "$stamp" ] && cmp -s "$lock" "$stamp"; then
    exit 0
fi
python=${PYTHON:-$(command -v python3.11 || command -v python3.12 || command -v python3 || true)}
[ -n "$python" ] || fail 'there is no python3'
"$python" -m venv --clear "$folder" || fail "could not make a virtual environment in '$folder'"

options=(--no-input --disable-pip-version-check)
if [ -n "${TORCH_INDEX_URL:-}" ]; then
    options+=(--extra-index-url "$TORCH_INDEX_URL")
fi
log=$folder/install.log
printf 'install: %s into %s (minutes the first time; details in %s)\n' "$name" "$folder" "$log"
if ! "$folder/bin/python" -m pip install "${options[@]}" --requirement "$from" > "$log" 2>&1; then
    tail -n 25 -- "$log" >&2
    fail "pip failed; the whole story is in $log"
fi

if [ "$from" != "$lock" ]; then
    {
        printf '# What requirements.in gave; written by `benchmarks/baselines/install.sh %s FOLDER --lock`.\n' "$name"
        # A local version such as +cpu names the build, which TORCH_INDEX_URL chooses.
        "$folder/bin/python" -m pip freeze --disable-pip-version-check | sed -E 's/ @ file:.*torch-([0-9.]+).*/==\1/; s/\+(cpu|cu[0-9]+)$//'
    } > "$lock"
fi

# PyPI's torchvision is a CUDA build, whose import fails beside a CPU-only PyTorch; infinity goes without.
if [ "$name" = infinity ] && ! "$folder/bin/python" -c 'import torchvision' > /dev/null 2>&1; then
    "$folder/bin/python" -m pip uninstall --yes --quiet torchvision
fi

cp -- "$lock" "$stamp"
