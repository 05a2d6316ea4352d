#!/usr/bin/env bash
# Build the documentation site into a folder, or without one only check its pages: every link, anchor and docstring.
#
#     scripts/docs.sh [FOLDER]
#
# mkdocs comes from PATH: `make docs` puts the development environment first.
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

if [ $# -gt 0 ]; then
    site=$1
else
    site=$(mktemp -d)
    trap 'rm -rf -- "$site"' EXIT
fi

# The variable keeps the theme from announcing its successor.
NO_MKDOCS_2_WARNING=1 mkdocs build --strict --site-dir "$site"
