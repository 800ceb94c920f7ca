#!/usr/bin/env bash
# Makes the platform's passwords, once: infra/.env, which compose reads, and infra/secrets/. Git ignores both.
#   bash infra/secrets.sh
set -euo pipefail
cd "$(dirname "$0")"
if [ -e .env ]; then
    echo "infra/.env is there already; to change a password, edit it and the place that it opens" >&2
    exit 0
fi
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
umask 077
prefect=$(random)
{
    for name in GLIAFLOW_TOKEN STORE_PASSWORD DATABASE_PASSWORD REDIS_PASSWORD GRAFANA_PASSWORD; do
        echo "$name=$(random)"
    done
    echo "PREFECT_PASSWORD=$prefect"
} > .env
mkdir -p secrets
# Prometheus runs as another user, who must read it; the folder is closed to others.
printf %s "$prefect" > secrets/prefect-password
chmod 644 secrets/prefect-password
echo "Made infra/.env; log in to Grafana as admin with its GRAFANA_PASSWORD, to Prefect with gliaflow:PREFECT_PASSWORD"
