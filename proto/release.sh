#!/usr/bin/env bash
# Record the wire contract as released: from now on proto/lint.sh refuses what would break callers built with it.
#
#   proto/release.sh [PROTO_DIR [OUT]]    default: proto/ into proto/released.txtpb
#
# A file of its own, because a source archive has no git history to compare with; text, so that a review shows what a
# release adds.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
contract=$(cd -- "${1:-$here}" && pwd)
out=${2:-$here/released.txtpb}
image=$(mktemp --suffix=.binpb)
trap 'rm -f -- "$image"' EXIT

"$here/install-tools.sh" buf
"$here/protoc.sh" "$contract" --include_imports --descriptor_set_out="$image"
"$here/../.venv-proto/buf/node_modules/.bin/buf" build "$image" --exclude-source-info --output "$out"
