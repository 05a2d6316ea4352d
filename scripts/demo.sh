#!/usr/bin/env bash
# Classify the sample photos and show that text embeddings are cached.
#
#   scripts/with-service.sh BIN scripts/demo.sh BIN    where BIN holds clipsr-client, such as .venv-serve/bin
set -euo pipefail

bin=${1:?name the folder that holds clipsr-client, such as .venv-serve/bin}
url=${CLIPSR_URL:?run this by scripts/with-service.sh}
metrics=${CLIPSR_METRICS:?run this by scripts/with-service.sh}
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
labels=airplane,automobile,bear,bus,cat,clock,dog,horse,lamp,motorcycle,rose
# The others show what the bundled model was never taught.
pictures=()
for label in ${labels//,/ }; do
    pictures+=(samples/"$label"*)
done

heading() {
    printf '\n── %s\n' "$*"
}

# Prints one counter of Triton's metrics; 0 if nothing was counted yet.
counter() {
    "$bin/python" - "http://$metrics/metrics" "$1" << 'PYTHON'
import sys
import urllib.request

url, name = sys.argv[1:]
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
lines = direct.open(url, timeout=10).read().decode().splitlines()
print(int(sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)))
PYTHON
}

# A counter may appear on the page a moment after the answer that raised it: ask until it stands still.
settled_counter() {
    local before after
    before=$(counter "$1")
    while sleep 0.5 && after=$(counter "$1") && [ "$after" != "$before" ]; do
        before=$after
    done
    printf '%s' "$before"
}

classify() {
    "$bin/clipsr-client" classify --url "$url" "$@"
}

heading 'What is being served'
# Its first part; the rest lists label sets, templates and limits.
"$bin/clipsr-client" info --url "$url" | sed '/^$/,$d'

heading 'What the sample photos show, with labels from the command line'
classify "${pictures[@]}" --labels "$labels" --top-k 3
first=$(settled_counter clipsr_text_encoder_calls_total)

heading 'The same once more: the text embeddings come from the cache'
classify "${pictures[@]}" --labels "$labels" --top-k 1 --format csv > /dev/null
second=$(settled_counter clipsr_text_encoder_calls_total)
printf 'text encoder calls: %s after the first classification, %s after the second\n' "$first" "$second"
for name in hits misses evictions; do
    printf 'text cache %s: %s\n' "$name" "$(settled_counter "clipsr_text_cache_${name}_total")"
done
if [ "$first" != "$second" ]; then
    printf 'demo: the second classification called the text encoder again\n' >&2
    exit 1
fi

heading 'A picture that shows none of the labels'
classify samples/stop-sign.jpg samples/cat.png --labels cat,dog,horse --top-k 1 --none-of-these
