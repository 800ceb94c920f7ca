#!/usr/bin/env bash
# The container engine of this machine, by one name: ENGINE, or podman, or docker.
#   bash infra/engine.sh run --rm gliaflow/segmentation:0.1.0 id
# A tool `container-engine` beside this checkout (shared/tools) stands in where no registry can be reached.
set -euo pipefail
tool=$(cd "$(dirname "$0")/../.." && pwd)/shared/tools/container-engine
if [ -n "${ENGINE:-}" ]; then
    exec "$ENGINE" "$@"
elif [ -x "$tool" ]; then
    # It knows how to build here; its own way to run names a network, which a caller may have named too.
    [ "$1" = build ] || set -- podman "$@"
    exec "$tool" "$@"
elif command -v podman >/dev/null; then
    [ "$1" != build ] || set -- "$@" --format docker # which knows health checks
    exec podman "$@"
elif command -v docker >/dev/null; then
    exec docker "$@"
fi
echo "no container engine: install podman or docker, or name yours in ENGINE" >&2
exit 1
