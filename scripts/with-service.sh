#!/usr/bin/env bash
# Start the service on free ports, run a command against it, stop it again, also after a failure or Ctrl-C.
#
#   scripts/with-service.sh BIN COMMAND [ARGUMENT...]
#
# BIN holds clipsr-serve, such as .venv-serve/bin. The command finds the gateway in CLIPSR_URL (HOST:PORT) and Triton's
# metrics page in CLIPSR_METRICS (HOST:PORT), and its folder of image libraries in CLIPSR_LIBRARIES. CLIPSR_PROFILE names
# a profile to serve with (`clipsr-serve up --profile`), CLIPSR_REPOSITORY another model repository than
# model_repository/.
set -euo pipefail

bin=${1:?name the folder that holds clipsr-serve, such as .venv-serve/bin}
shift
repository=${CLIPSR_REPOSITORY:-$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)/model_repository}
state=$(mktemp -d "${TMPDIR:-/tmp}/clipsr.XXXXXX")

stop() {
    status=$?
    trap - EXIT
    if [ "$status" -ne 0 ]; then
        "$bin/clipsr-serve" logs --state-dir "$state" --lines 20 >&2 || true
    fi
    "$bin/clipsr-serve" down --state-dir "$state" || status=1
    if [ "$status" -eq 0 ]; then
        rm -rf -- "$state"
    else
        printf 'with-service: failed; the logs are in %s\n' "$state" >&2
    fi
    exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"$bin/clipsr-serve" up --detach --state-dir "$state" --repository "$repository" --listen 127.0.0.1:0 \
    --triton-http-port 0 --triton-grpc-port 0 --triton-metrics-port 0 \
    ${CLIPSR_PROFILE:+--profile "$CLIPSR_PROFILE"}
read -r CLIPSR_URL CLIPSR_METRICS <<< "$("$bin/clipsr-serve" status --state-dir "$state" --json |
    "$bin/python" -c 'import json, sys; state = json.load(sys.stdin); print(state["url"], state["triton"]["metrics"])')"
CLIPSR_LIBRARIES=$state/libraries
export CLIPSR_URL CLIPSR_METRICS CLIPSR_LIBRARIES
"$@"
