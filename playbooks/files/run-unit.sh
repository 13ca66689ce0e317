#!/bin/sh
# run-unit.sh UNIT start|restart: enables one of the engines' units and runs it now.
set -eu
export SYSTEMD_COLORS=0
systemctl daemon-reload
systemctl --quiet enable "$1"
systemctl "$2" "$1"
