#!/usr/bin/env bash
# Check the wire contract's style and comments with buf; the rules are in buf.yaml.
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
"$here/../.venv-proto/buf/node_modules/.bin/buf" lint "$image" --config "$here/buf.yaml" --path clipsr
