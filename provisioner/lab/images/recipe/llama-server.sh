#!/bin/sh
# Starts the llama-server beside it with the libraries beside it, whatever the
# system has. Only shell built-ins on the usual path: under software emulation
# each started program costs a tenth of a second.
self=$0
if [ -L "$self" ]; then self=$(readlink -f "$self"); fi
case $self in */*) top=${self%/*} ;; *) top=. ;; esac

# ggml finds no computing code by itself outside /usr, so name the build for this processor.
if [ -z "${GGML_BACKEND_PATH:-}" ]; then
  build=x64
  while read -r key flags; do
    [ "$key" = flags ] || continue
    case " $flags " in *" avx2 "*)
      case " $flags " in *" fma "*)
        case " $flags " in *" bmi2 "*)
          case " $flags " in *" f16c "*) build=haswell ;; esac ;;
        esac ;;
      esac ;;
    esac
    break
  done < /proc/cpuinfo
  export GGML_BACKEND_PATH="$top/lib/libggml-cpu-$build.so"
fi
exec "$top/lib/ld-linux-x86-64.so.2" --library-path "$top/lib" "$top/libexec/llama-server" "$@"
