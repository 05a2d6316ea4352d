# shellcheck shell=bash
# What generate.sh and lint.sh share; sourced by them.

fail() {
    printf '%s: %s\n' "$(basename -- "$0" .sh)" "$1" >&2
    exit 1
}

# Copy google/rpc/status.proto, which clipsr.v1 imports, from the Python package that carries it: copy_googleapis FOLDER
copy_googleapis() {
    mkdir -p -- "$1/google/rpc"
    python - "$1/google/rpc/status.proto" << 'PYTHON' || fail "python needs googleapis-common-protos: run 'make $verb', or put an environment with clipsr first on PATH"
import importlib.resources
import pathlib
import sys

source = importlib.resources.files("google.rpc") / "status.proto"
pathlib.Path(sys.argv[1]).write_bytes(source.read_bytes())
PYTHON
}
