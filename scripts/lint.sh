#!/usr/bin/env bash
# Run every static check, all of them even after one failed, and fail if any did.
#
# The tools come from PATH: `make lint` puts the development environment first.
set -uo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit 1
failed=()

check() {
    local name=$1
    shift
    printf '== %s\n' "$name"
    "$@" || failed+=("$name")
}

shell_syntax() {
    local status=0 file
    while IFS= read -r file; do
        bash -n "$file" || status=1
    done < <(git ls-files -- '*.sh' .ci/run)
    return "$status"
}

check 'ruff format' ruff format --check --quiet .
check 'ruff check' ruff check --quiet .
check 'pyright' pyright
check 'import-linter' lint-imports --config .importlinter
check 'sync client' scripts/unasync.py --check
check 'proto' proto/lint.sh
check 'shell' shell_syntax
check 'docs' scripts/docs.sh

if [ ${#failed[@]} -gt 0 ]; then
    printf 'lint: failed: %s\n' "${failed[*]}" >&2
    exit 1
fi
printf 'lint: all passed\n'
