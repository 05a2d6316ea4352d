#!/usr/bin/env bash
# Put the pinned tools for the wire contract into .venv-proto, apart from every other environment.
#
#   proto/install-tools.sh protoc    a protoc with the Python generators (needs python3 with venv)
#   proto/install-tools.sh buf       the linter (needs npm, which comes with Node.js)
#
# Does nothing if they are there already. The first use needs the package registries. Several may ask at once: one
# installs, the others wait for it.
set -euo pipefail

# Stubs refuse to load under a protobuf runtime or a grpcio older than their generator, and tritonclient keeps us on
# protobuf 6: this is a generator of protobuf 6.31 and grpcio 1.73, the lower bounds in client/pyproject.toml.
grpcio_tools=1.73.1
buf=1.75.0

fail() {
    printf 'proto: %s\n' "$1" >&2
    exit 1
}

# Runs a command silently; shows what it said if it fails.
quietly() {
    local said
    said=$("$@" 2>&1) || { printf '%s\n' "$said" >&2 && return 1; }
}

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
tools=$root/.venv-proto

install_protoc() {
    quietly python3 -m venv --clear "$tools/protoc" || fail 'python3 could not make a virtual environment'
    # googleapis-common-protos carries google/rpc/status.proto, which our messages import.
    quietly "$tools/protoc/bin/python" -m pip install --no-input --disable-pip-version-check \
        --constraint "$root/constraints.txt" "grpcio-tools==$grpcio_tools" googleapis-common-protos ||
        fail "pip could not install grpcio-tools $grpcio_tools"
}

install_buf() {
    command -v npm > /dev/null || fail 'npm is not here, and buf comes from it: install Node.js'
    rm -rf -- "$tools/buf"
    mkdir -p -- "$tools/buf"
    # The binary is a package of its own for each platform; no script of a package needs to run.
    quietly npm install --prefix "$tools/buf" --no-save --no-audit --no-fund --ignore-scripts "@bufbuild/buf@$buf" ||
        fail "npm could not install @bufbuild/buf $buf"
}

case ${1:-} in
    protoc) version=$grpcio_tools ;;
    buf) version=$buf ;;
    *) fail 'use: install-tools.sh protoc|buf' ;;
esac
stamp=$tools/$1/.installed-$version
if [ ! -e "$stamp" ]; then
    mkdir -p -- "$tools"
    exec {lock}> "$tools/.lock"
    flock "$lock"
    if [ ! -e "$stamp" ]; then # nobody else installed it meanwhile
        "install_$1"
        touch -- "$stamp"
    fi
fi
