#!/usr/bin/env bash
# Serve the exported model, classify the sample photos, show that text embeddings are cached, stop everything.
#
#   scripts/demo.sh BIN    where BIN holds clipsr-serve and clipsr-client, such as .venv-serve/bin
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
bin=${1:?name the folder that holds clipsr-serve and clipsr-client, such as .venv-serve/bin}
labels=airplane,automobile,bear,bird,bottle,bowl,bus,cat,clock,dog,elephant,horse,lamp,motorcycle,mountain,rose

heading() {
    printf '\n── %s\n' "$*"
}

# Four ports that nobody uses right now: the gateway's, and Triton's for HTTP, gRPC and metrics.
read -r -a ports <<< "$("$bin/python" - << 'PYTHON'
import socket

sockets = [socket.socket() for _ in range(4)]
for held in sockets:
    held.bind(("127.0.0.1", 0))
print(*(held.getsockname()[1] for held in sockets))
PYTHON
)"
url=127.0.0.1:${ports[0]}
metrics=http://127.0.0.1:${ports[3]}/metrics
state=$(mktemp -d "${TMPDIR:-/tmp}/clipsr-demo.XXXXXX")

stop() {
    status=$?
    trap - EXIT
    heading 'Stopping'
    "$bin/clipsr-serve" down --state-dir "$state" || status=1
    if [ "$status" -eq 0 ]; then
        rm -rf -- "$state"
    else
        printf 'demo: failed; the logs are in %s\n' "$state" >&2
    fi
    exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Prints one counter of Triton's metrics; 0 if nothing was counted yet.
counter() {
    "$bin/python" - "$metrics" "$1" << 'PYTHON'
import sys
import urllib.request

url, name = sys.argv[1:]
lines = urllib.request.urlopen(url, timeout=10).read().decode().splitlines()
print(int(sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)))
PYTHON
}

# A custom metric is on the page a moment after the answer that raised it; ask until it stands still.
settled_counter() {
    local before after
    before=$(counter "$1")
    while sleep 0.5 && after=$(counter "$1") && [ "$after" != "$before" ]; do
        before=$after
    done
    printf '%s' "$before"
}

classify() {
    "$bin/clipsr-client" classify samples/ --labels "$labels" --templates @simple --url "$url" "$@"
}

heading 'Starting Triton and the gateway'
"$bin/clipsr-serve" up --detach --state-dir "$state" --repository model_repository --listen "$url" \
    --triton-http-port "${ports[1]}" --triton-grpc-port "${ports[2]}" --triton-metrics-port "${ports[3]}"

heading 'What is being served'
"$bin/clipsr-client" info --url "$url"

heading "What is in samples/, with these labels: $labels"
classify --top-k 3
first=$(settled_counter clipsr_text_encoder_calls_total)

heading 'The same once more: the text embeddings come from the cache'
classify --top-k 1 --format csv > "$state/again.csv"
second=$(settled_counter clipsr_text_encoder_calls_total)
printf 'text encoder calls: %s after the first classification, %s after the second\n' "$first" "$second"
for name in hits misses evictions; do
    printf 'text cache %s: %s\n' "$name" "$(settled_counter "clipsr_text_cache_${name}_total")"
done
if [ "$first" != "$second" ]; then
    printf 'demo: the second classification called the text encoder again\n' >&2
    exit 1
fi
