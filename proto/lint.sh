#!/usr/bin/env bash
# Check the wire contract with buf: its style and comments, and that it breaks no caller of the last release.
# The rules are in buf.yaml, the last release is released.txtpb (proto/release.sh writes it).
#
#   proto/lint.sh [PROTO_DIR]    default: proto/
#
# buf reads what our protoc compiled: so google/rpc/status.proto comes from the same package as for the stubs, and
# nothing is fetched from a schema registry.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
contract=$(cd -- "${1:-$here}" && pwd)
image=$(mktemp --suffix=.binpb)
trap 'rm -f -- "$image"' EXIT

"$here/install-tools.sh" buf
"$here/protoc.sh" "$contract" --include_imports --include_source_info --descriptor_set_out="$image"
buf=$here/../.venv-proto/buf/node_modules/.bin/buf
status=0
"$buf" lint "$image" --config "$here/buf.yaml" --path clipsr || status=$?
"$buf" breaking "$image" --against "$here/released.txtpb" --config "$here/buf.yaml" --exclude-imports || status=$?
exit "$status"
