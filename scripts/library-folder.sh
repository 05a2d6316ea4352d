#!/usr/bin/env bash
# Make a folder for image libraries that the image's user may write: a volume that is mounted there takes on its owner.
#
#   scripts/library-folder.sh FOLDER UID
set -euo pipefail

folder=${1:?name the folder, e.g. scripts/library-folder.sh /var/lib/clipsr/libraries 1000}
owner=${2:?name the owner by number, e.g. 1000}
mkdir -p -- "$folder"
chown -- "$owner:$owner" "$folder"
