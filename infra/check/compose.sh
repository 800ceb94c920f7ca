#!/usr/bin/env bash
# Starts the platform of infra/compose.yaml with a fresh storage, runs a small cohort through it over HTTP, looks at what
# Prefect, Redis, Prometheus and Grafana know of it, and takes everything down again.
#   bash infra/check/compose.sh             KEEP=1 leaves it running
# With docker compose, all services start, from the public images. Where no registry can be reached it takes podman-compose
# and stand-ins for the public images (infra/stand-ins) that are not there; there is none for Grafana, which is then left
# out.
set -euo pipefail
cd "$(dirname "$0")/../.."
engine() { bash infra/engine.sh "$@"; }
say() { echo "== $*"; }
bash infra/secrets.sh
set -a
. infra/.env
set +a
export COMPOSE_PROJECT_NAME=gliaflow-check
file=infra/compose.yaml

if docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1; then
    compose() { docker compose -f "$file" "$@"; }
    monitors=(prometheus grafana)
    start() { compose up --detach --wait; }
else
    command -v podman-compose >/dev/null || { echo "needs docker compose, or podman-compose: pip install podman-compose" >&2; exit 1; }
    compose() { podman-compose --podman-path "$PWD/infra/engine.sh" -f "$file" -p "$COMPOSE_PROJECT_NAME" "$@"; }
    monitors=(prometheus)
    # Podman keeps no clock of its own for health checks, so they are asked here, in the order of depends_on.
    start() {
        local name
        for name in database online-features object-store; do image_or_stand_in "$name"; done
        image_or_stand_in prometheus
        compose up --detach --no-deps database online-features object-store
        for name in database online-features object-store; do wait_healthy "$name"; done
        compose run -T --rm --no-deps bucket
        compose up --detach --no-deps prefect preprocessing segmentation feature_store model_serving survival_analytics prometheus
        for name in prefect preprocessing segmentation feature_store model_serving survival_analytics prometheus; do
            wait_healthy "$name"
        done
        compose up --detach --no-deps worker
        wait_healthy worker
        if can_be_had "$(image_of grafana)"; then
            monitors+=(grafana)
            compose up --detach --no-deps grafana
            wait_healthy grafana
        else
            say "without Grafana: $(image_of grafana) is not here and cannot be pulled"
        fi
    }
fi

image_of() { sed -n "/^  $1:/,/^  [a-z]/s/^    image: //p" "$file" | head -1; }

can_be_had() { engine image inspect "$1" >/dev/null 2>&1 || engine pull --quiet "$1" >/dev/null 2>&1; }

image_or_stand_in() {
    local image
    image=$(image_of "$1")
    can_be_had "$image" || {
        say "a stand-in for $image"
        engine build --target "$1" -t "$image" infra/stand-ins
    }
}

wait_healthy() {
    local container deadline=$((SECONDS + 300))
    container=$(engine ps --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" --filter "label=com.docker.compose.service=$1")
    until engine healthcheck run "$container" >/dev/null 2>&1; do
        if [ "$SECONDS" -gt "$deadline" ]; then
            compose logs "$1" | tail -40 >&2
            echo "$1 did not become healthy" >&2
            exit 1
        fi
        sleep 2
    done
    say "$1 is healthy"
}

finish() {
    local code=$?
    [ -n "${KEEP:-}" ] || compose down --volumes >/dev/null 2>&1 || true
    exit "$code"
}
trap finish EXIT

run() { compose exec -T worker gliaflow "$@"; }

say "starting"
compose down --volumes >/dev/null 2>&1 || true # what a check that was cut off left, with other passwords
start
say "three phantom patients through the services"
compose exec -T worker sh -c 'cat > /tmp/check.yaml' < infra/check/cohort.yaml
for step in simulate prepare segment extract; do run "$step" --params /tmp/check.yaml; done
say "a second time, nothing is computed"
run extract --params /tmp/check.yaml 2>&1 | tee /dev/stderr | grep -q "3 of them unchanged"
say "a study on a published table, its model registered and served"
compose exec -T worker python - < infra/check/study.py
say "what Prefect and ${monitors[*]} know"
python3 infra/check/figures.py "${monitors[@]}"
say "all of it works"
