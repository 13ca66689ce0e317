# What of an engine stands in a guest, one fact a line. Reads only.
# In: $account, $paths (files and folders to look for), $units (of this engine), $node_units (of all engines),
#     $packages (Debian's), $engine.
for path in $paths; do
  [ ! -e "$path" ] || echo "have $path"
done
[ -z "$account" ] || ! id -u "$account" >/dev/null 2>&1 || echo "account $(id -u "$account"):$(id -g "$account")"
for group in render video; do
  ! getent group "$group" >/dev/null || echo "group $group"
done
for package in $packages; do
  dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || echo "no-package $package"
done
for unit in $units; do
  file=/etc/systemd/system/llm-$unit.service
  # Beside the running server lies what it was started with: what was written but never started differs, or has none.
  if cmp --silent "$file" "/run/llm-$unit/unit" && systemctl is-active --quiet "llm-$unit" &&
    { ! grep -q '^EnvironmentFile=' "$file" || sha256sum --check --status "/run/llm-$unit/secrets"; }; then
    echo "runs $unit"
  fi
  [ ! -e "/etc/systemd/system/multi-user.target.wants/llm-$unit.service" ] || echo "enabled $unit"
  [ "$(systemctl show -P NeedDaemonReload "llm-$unit")" != yes ] || echo "reload"
done
cd /etc/systemd/system || exit 1
for file in llm-*.service llama-server.service; do
  [ -f "$file" ] && grep -q '^# Written by provisioner' "$file" || continue
  # What serves beside the engines is no mode's, and nobody's conflict.
  of=$(sed -n 's/^X-LLM-Engine=//p' "$file")
  if [ "$of" = open-webui ]; then [ "$engine" = open-webui ] || continue; else [ "$engine" != open-webui ] || continue; fi
  # llama-server.service is how a llama.cpp node's only unit was called once.
  case " $node_units " in *" $file "*) ;; *) echo "stale $file" ;; esac
done
exit 0
