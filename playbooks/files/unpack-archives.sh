#!/bin/sh
# unpack-archives.sh FOLDER [ARCHIVE SHA256 STRIP]...: unpacks archives over each other; the mark comes last.
set -eu
folder=$1
shift
rm -rf "$folder"
install -d -o root -g root -m 0755 "$folder"
while [ $# -gt 0 ]; do
  echo "$2  $1" | sha256sum --check --status || { echo "wrong checksum: $1 is not $2" >&2; exit 1; }
  tar --extract --file "$1" --directory "$folder" --strip-components "$3" --no-same-owner
  used="${used:-} $1"
  shift 3
done
touch "$folder/.complete"
# shellcheck disable=SC2086
rm -f $used
