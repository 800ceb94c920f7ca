#!/usr/bin/env bash
# Installs the chart on the cluster of KUBECONFIG, in two namespaces of its own under the restricted Pod Security Standard,
# and uses it: a small cohort over HTTP, a model promoted and rolled back by jobs of the work pool, the release upgraded,
# rolled back and uninstalled. Needs kubectl, Helm 3.17 and the project's images where the nodes pull them.
#   make cluster-check KUBECONFIG=… [REGISTRY=registry.example/mri] [TAG=…] [STORAGE_CLASS=…] [ACCESS_MODE=ReadWriteOnce]
#   KEEP=1 leaves both namespaces
set -euo pipefail
cd "$(dirname "$0")/../.."
space=${NAMESPACE:-gliaflow-check}
server=$space-prefect
release=gliaflow
api=http://prefect.$server:4200/api
image=${REGISTRY:+$REGISTRY/}gliaflow/pipelines:${TAG:-$(sed -n 's/^appVersion: "\(.*\)"/\1/p' charts/gliaflow/Chart.yaml)}
for tool in kubectl helm; do
    command -v "$tool" >/dev/null || { echo "needs $tool on the PATH" >&2; exit 1; }
done
say() { echo "== $*"; }
k() { kubectl -n "$space" "$@"; }

if kubectl get namespace "$space" "$server" >/dev/null 2>&1; then
    echo "the namespaces $space and $server are there already: delete them, or name another with NAMESPACE=" >&2
    exit 1
fi

finish() {
    local code=$?
    if [ "$code" != 0 ]; then
        k get pods -o wide >&2 || true
        k get events --field-selector type=Warning --sort-by=.lastTimestamp 2>/dev/null | tail -15 >&2 || true
    fi
    if [ -z "${KEEP:-}" ]; then
        uninstall || true
        kubectl delete namespace "$space" "$server" --ignore-not-found >/dev/null || true
    fi
    exit "$code"
}
trap finish EXIT

# Helm, with the same values each time; what it says of an object that a policy only warns about is a fault.
install() {
    helm upgrade --install "$release" charts/gliaflow -n "$space" -f charts/gliaflow/values-cpu.yaml -f infra/check/cluster.yaml \
        --set global.image.registry="${REGISTRY:-}" --set global.image.tag="${TAG:-}" --set prefect.apiUrl="$api" \
        --set "prefect.egress[0].to[0].namespaceSelector.matchLabels.kubernetes\.io/metadata\.name=$server" \
        --set "prefect.egress[0].ports[0].protocol=TCP" --set "prefect.egress[0].ports[0].port=4200" \
        --set global.storage.pvc.size=5Gi --set global.storage.pvc.storageClassName="${STORAGE_CLASS:-}" \
        --set global.storage.pvc.accessMode="${ACCESS_MODE:-ReadWriteMany}" \
        --atomic --timeout 20m "$@" 2>&1 >/dev/null | tee /dev/stderr | { ! grep -i warning; }
}

# Pods first: a namespace that is deleted with pods in it waits for half of their grace.
uninstall() {
    k delete job --all --ignore-not-found >/dev/null
    helm uninstall "$release" -n "$space" --ignore-not-found --wait --timeout 10m
    k wait --for=delete pod --all --timeout=600s >/dev/null
}

# The pod of a job made of the chart's own template, with the name of its role.
pod_of_role() {
    local job
    job=$(k exec -i "deployment/$release-worker" -- python - "$1" < infra/check/job.py | k create -f - -o name)
    k wait --for=jsonpath='{.status.ready}'=1 "$job" --timeout=300s >/dev/null
    k get pods -l "batch.kubernetes.io/job-name=${job#*/}" -o jsonpath='{.items[0].metadata.name}'
}

pinned() { k get deployment "$release-model-serving" -o jsonpath='{.spec.template.spec.containers[0].env[?(@.name=="GLIAFLOW_MODEL_PINS")].value}'; }

expect() { # what, expected, got
    [ "$2" = "$3" ] || { echo "$1: expected '$2', got '$3'" >&2; exit 1; }
}

say "two namespaces, a token, a Prefect server"
for name in "$space" "$server"; do
    kubectl create namespace "$name" >/dev/null
    kubectl label namespace "$name" pod-security.kubernetes.io/enforce=restricted pod-security.kubernetes.io/warn=restricted >/dev/null
done
k create secret generic gliaflow-token --from-literal=token="$(openssl rand -hex 32)" >/dev/null
sed "s|IMAGE|$image|" infra/check/prefect.yaml | kubectl -n "$server" apply -f - >/dev/null
kubectl -n "$server" rollout status deployment/prefect --timeout=600s

say "the release"
helm dependency build --skip-refresh charts/gliaflow >/dev/null
install
k get pods

say "three phantom patients through the services, by a job"
pod=$(pod_of_role promoter)
run() { k exec "$pod" -- env PREFECT_API_URL="$api" gliaflow "$@"; }
k exec -i "$pod" -- sh -c 'cat > /tmp/check.yaml' < infra/check/cohort.yaml
for step in simulate prepare segment extract; do run "$step" --params /tmp/check.yaml; done
say "a second time, nothing is computed"
run extract --params /tmp/check.yaml 2>&1 | tee /dev/stderr | grep -q "3 of them unchanged"

say "a study on a published table, its model registered and served; then a second version"
k exec -i "$pod" -- env PREFECT_API_URL="$api" python - < infra/check/study.py
study="gliaflow study grading --cohort published --features /tmp/check/published.csv --participants /tmp/check/clinic.csv"
k exec "$pod" -- env PREFECT_API_URL="$api" sh -c "sed 's/^seed: 1/seed: 2/' /tmp/check/params.yaml > /tmp/check/again.yaml && $study --params /tmp/check/again.yaml"
version=$(k exec "$pod" -- python -c '
from services.model_serving import registry
from services.shared.storage import open_storage
print(registry.resolve(open_storage(), "grading-published/latest").version)')

say "version $version is promoted by a job of the work pool, while patients are asked about"
k exec -i "$pod" -- python - < infra/check/patients.py 2>/dev/null &
asking=$!
run submit promote "grading-published/$version" --without-comparison --reason "infra/check/cluster.sh"
kill "$asking" 2>/dev/null || true
expect "the version that is pinned" "{\"grading-published\": \"$version\"}" "$(pinned)"

say "a job that no node takes is taken back, with the reason"
told=$(run submit --gpus 1000 --pending 1 models 2>&1) && { echo "a job with 1000 GPUs ran" >&2; exit 1; }
grep "Pending, no GPU node" <<< "$told" || { echo "$told" >&2; exit 1; }
expect "jobs of the step that are left" "" "$(k get jobs -o name | grep gliaflow-models || true)"

say "an upgrade and a rollback of the release leave the promoted version alone"
install --set model_serving.settings.max_request_mb=65
expect "the setting after the upgrade" 65 "$(k get configmap "$release-model-serving" -o jsonpath='{.data.GLIAFLOW_MAX_REQUEST_MB}')"
expect "the version that is pinned after the upgrade" "{\"grading-published\": \"$version\"}" "$(pinned)"
helm rollback "$release" -n "$space" --wait --timeout 20m >/dev/null
expect "the setting after the rollback" 64 "$(k get configmap "$release-model-serving" -o jsonpath='{.data.GLIAFLOW_MAX_REQUEST_MB}')"
expect "the version that is pinned after the rollback" "{\"grading-published\": \"$version\"}" "$(pinned)"

say "the model is rolled back to the version before"
run submit rollback grading-published
[ "$(pinned)" != "{\"grading-published\": \"$version\"}" ] || { echo "the version before is not pinned again" >&2; exit 1; }

say "the release is uninstalled; the claim stays"
uninstall
left=$(k get all,configmap,networkpolicy,persistentvolumeclaim,role,serviceaccount -l "app.kubernetes.io/instance=$release" -o name)
expect "what is left" "persistentvolumeclaim/$release-storage" "$left"
say "all of it works"
