#!/usr/bin/env bash
# Generate the client's Python stubs, with types, from the wire contract.
#
#   proto/generate.sh [OUT [PROTO_DIR]]    default: from proto/ into client/src
#
# A proto file's folder equals its package, and that is the import path too, so nothing needs patching afterwards.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
contract=$(cd -- "${2:-$here}" && pwd)
out=${1:-$here/../client/src}
mkdir -p -- "$out"
out=$(cd -- "$out" && pwd)

find "$out" \( -name '*_pb2.py' -o -name '*_pb2.pyi' -o -name '*_pb2_grpc.py' \) -delete # of files that are no more
"$here/protoc.sh" "$contract" --python_out="$out" --pyi_out="$out" --grpc_python_out="$out"

# The plugin writes a file without content beside messages that no service defines.
grep -rLE --include='*_pb2_grpc.py' '^class ' "$out" | xargs -r rm --
