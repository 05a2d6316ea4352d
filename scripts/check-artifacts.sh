#!/usr/bin/env bash
# Check that a model repository holds every artifact of its manifest, unchanged.
#
#   scripts/check-artifacts.sh model_repository
set -euo pipefail

repository=${1:?name the model repository, e.g. scripts/check-artifacts.sh model_repository}
if [ ! -f "$repository/manifest.json" ]; then
    printf 'check-artifacts: %s has no manifest.json; run `make export` first\n' "$repository" >&2
    exit 1
fi

exec python3 - "$repository" << 'PYTHON'
import hashlib
import json
import pathlib
import sys

repository = pathlib.Path(sys.argv[1])
artifacts = json.loads((repository / "manifest.json").read_text(encoding="utf-8"))["artifacts"]
for name, expected in sorted(artifacts.items()):
    path = repository / name
    if not path.is_file():
        sys.exit(f"check-artifacts: {path} is missing; run `make export` again")
    if hashlib.sha256(path.read_bytes()).hexdigest() != expected["sha256"]:
        sys.exit(f"check-artifacts: {path} is not what the manifest describes; run `make export` again")
print(f"check-artifacts: {len(artifacts)} artifacts as the manifest describes them")
PYTHON
