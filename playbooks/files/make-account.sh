#!/bin/sh
# make-account.sh ACCOUNT|- HOME: an account for an engine, which nobody can log in to, and the folders of all engines.
set -eu
install -d -o root -g root -m 0755 /var/lib/llm /var/lib/llm/models /var/cache/llm /opt/llm
install -d -o root -g root -m 0700 /etc/llm
# systemd makes one as it starts the unit.
[ "$1" != - ] || exit 0
getent group llm >/dev/null || groupadd --system llm
id -u "$1" >/dev/null 2>&1 || useradd --system --gid llm --home-dir "$2" --no-create-home --shell /usr/sbin/nologin "$1"
# All engines that read Hugging Face's cache write to it too; whoever comes first must not lock the others out.
install -d -o root -g llm -m 2775 /var/lib/llm/huggingface
install -d -o "$1" -g llm -m 0750 "$2"
