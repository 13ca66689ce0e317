#!/bin/sh
# remove-units.sh FILE...: stops units that nobody wants any more, and removes them with their secrets.
set -eu
export SYSTEMD_COLORS=0
for file in "$@"; do
  systemctl --quiet disable --now "$file"
  unit=${file#llm-}
  rm -f "/etc/systemd/system/$file" "/etc/llm/${unit%.service}.env"
done
systemctl daemon-reload
