#!/usr/bin/env bash
# Install what a bare Debian or Ubuntu lacks: make, git, Python and its venv module. Does nothing where all is there.
#
# Non-interactive. As root, or with sudo that asks no password; otherwise it says what to install.
set -euo pipefail

python=${PYTHON:-python3}
missing=()
command -v make > /dev/null || missing+=(make)
command -v git > /dev/null || missing+=(git)
command -v "$python" > /dev/null || missing+=(python3)
"$python" -c 'import ensurepip, venv' 2> /dev/null || missing+=(python3-venv)
if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo -n)
fi
if ! command -v apt-get > /dev/null || ! "${as_root[@]}" true 2> /dev/null; then
    printf 'install-system: missing: %s; this script may not install packages here, so install them and run again\n' \
        "${missing[*]}" >&2
    exit 1
fi
printf 'install-system: installing %s\n' "${missing[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install --yes --no-install-recommends -qq "${missing[@]}"
