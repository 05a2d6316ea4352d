#!/usr/bin/env bash
# Install what a bare Debian or Ubuntu lacks. Does nothing where all is there.
#
#   scripts/install-system.sh [make] [git] [python] [node] [chromium]    (all of them if none is named)
#   scripts/install-system.sh nginx                                      (for `make reliability ARGS='balanced …'`)
#
# `python` means python3 with its venv module and shared library, which Debian splits off; `node` means Node.js and npm,
# which the linter of the wire contract and the Node.js client need; `chromium` drives the tests of the web pages, which
# are skipped where it cannot be installed.
# Non-interactive. As root, or with sudo that asks no password; otherwise it says what to install.
set -euo pipefail

scripts=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}

install_packages() {
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        as_root=(sudo -n)
    fi
    if ! command -v apt-get > /dev/null || ! "${as_root[@]}" true 2> /dev/null; then
        printf 'install-system: missing: %s; this script may not install packages here: install them, run again\n' \
            "$*" >&2
        exit 1
    fi
    printf 'install-system: installing %s\n' "$*"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --no-install-recommends -qq "$@"
}

if [ $# -eq 0 ]; then
    set -- make git python node chromium
fi
for wanted in "$@"; do
    command=$wanted
    package=$wanted
    if [ "$wanted" = python ]; then
        command=$python
        package=python3
    elif [ "$wanted" = node ]; then
        command=npm
        package='nodejs npm'
    fi
    if [ "$wanted" = chromium ]; then
        command -v chromium > /dev/null || (install_packages chromium) ||
            printf 'install-system: without chromium the tests of the web pages are skipped\n' >&2
        continue
    fi
    # shellcheck disable=SC2086 # node is two packages
    command -v "$command" > /dev/null || install_packages $package
    if [ "$wanted" = python ]; then
        read -r -a parts <<< "$("$python" "$scripts/check_python.py" --packages)"
        [ ${#parts[@]} -eq 0 ] || install_packages "${parts[@]}"
    fi
done
