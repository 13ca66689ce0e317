#!/bin/sh
# take-model.sh PART SHA256 FILE: makes a file that has arrived root's, under its name, if it is the one it should be.
set -eu
echo "$2  $1" | sha256sum --check --status || { rm -f "$1"; echo "wrong checksum: what arrived is not $2" >&2; exit 1; }
chown root:root "$1"
chmod 0644 "$1"
mv "$1" "$3"
