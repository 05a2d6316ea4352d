#!/usr/bin/env bash
# Run the pinned protoc on every file of the contract.
#
#   proto/protoc.sh PROTO_DIR OPTION...    for example: proto/protoc.sh proto --descriptor_set_out=clipsr.binpb
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
contract=${1:?name the folder that holds clipsr/v1}
shift
"$here/install-tools.sh" protoc
python=$here/../.venv-proto/protoc/bin/python
googleapis=$("$python" -c 'import importlib.metadata as m; print(m.distribution("googleapis-common-protos").locate_file(""))')

cd -- "$contract"
find clipsr -name '*.proto' -print0 | sort -z |
    xargs -0 "$python" -m grpc_tools.protoc --proto_path=. --proto_path="$googleapis" "$@"
