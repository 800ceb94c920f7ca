"""What every profile renders is safe to run and holds together."""

from __future__ import annotations

import re
from typing import Any

import pytest

from pipelines.serve import serve_command
from services.shared.settings import SERVICE_NAMES, Settings, settings
from tests.charts.rendered import NAMESPACE, RELEASE, SERVICES, Charts, Object, Rendered, labels_of, pod_of

pytestmark = pytest.mark.xdist_group("charts")

WRITABLE = {"emptyDir", "persistentVolumeClaim"}
SECRET_WORDS = re.compile("TOKEN|SECRET|PASSWORD|ACCESS_KEY|CONNECTION_URL|REGISTRY_URL|ONLINE_URL|AUTH_STRING$")


def test_containers_are_restricted(rendered: Rendered) -> None:
    for name, container in rendered.containers():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }, name
    for workload in rendered.workloads():
        pod = pod_of(workload)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        for volume in pod["volumes"]:
            (kind,) = set(volume) - {"name"}
            assert kind in WRITABLE | {"configMap"}
            assert kind != "emptyDir" or "sizeLimit" in volume["emptyDir"]


def test_libraries_write_where_they_may(rendered: Rendered) -> None:
    for workload in rendered.workloads():
        pod = pod_of(workload)
        writable = {volume["name"] for volume in pod["volumes"] if WRITABLE & set(volume)}
        for container in pod["containers"]:
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert set(mounts.values()) <= {volume["name"] for volume in pod["volumes"]}
            assert mounts["/tmp"] in writable
            folders = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
            assert folders["HOME"] == folders["TMPDIR"] == "/tmp"
            if container["name"] in ("service", "prefect-job"):
                assert mounts[folders["NUMBA_CACHE_DIR"]] in writable


def test_resources_are_bounded(rendered: Rendered) -> None:
    for name, container in rendered.containers():
        for bound in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(container["resources"][bound]), name


def test_probes_give_a_model_time_to_load(rendered: Rendered) -> None:
    for deployment in rendered.of("Deployment"):
        (container,) = pod_of(deployment)["containers"]
        ports = {port["name"] for port in container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["port"] in ports
        startup = container["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 300
        if container["name"] == "service":
            assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
            assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
            waited = startup["periodSeconds"] * startup["failureThreshold"]
            assert deployment["spec"]["progressDeadlineSeconds"] > waited
            drain = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            assert pod_of(deployment)["terminationGracePeriodSeconds"] >= drain + 60


def test_images_are_named_by_version_without_a_registry(rendered: Rendered) -> None:
    for _, container in rendered.containers():
        assert re.fullmatch(r"gliaflow/[a-z_]+:\d+\.\d+\.\d+(-cuda)?", container["image"])


def test_images_can_be_named_by_registry_and_digest(charts: Charts) -> None:
    digest = "sha256:" + "0" * 64
    values = {
        "global": {"image": {"registry": "registry.example:5000/mri/", "tag": "1.2.3", "pullSecrets": ["pull"]}},
        "segmentation": {"image": {"digest": digest}},
        "pipelines": {"image": {"repository": "tools/flows"}},
    }
    made = charts.template("production", values)
    images = {name: container["image"] for name, container in made.containers()}
    assert images["rel-segmentation"] == f"registry.example:5000/mri/gliaflow/segmentation@{digest}"
    assert images["rel-preprocessing"] == "registry.example:5000/mri/gliaflow/preprocessing:1.2.3"
    assert images["rel-worker"] == images["flow run"] == "registry.example:5000/mri/tools/flows:1.2.3"
    for workload in made.workloads():
        assert pod_of(workload)["imagePullSecrets"] == [{"name": "pull"}]


def test_secrets_are_references(rendered: Rendered) -> None:
    assert not rendered.of("Secret")
    for name, container in rendered.containers():
        for entry in container["env"]:
            named = entry["name"].endswith(("_SECRET_NAME", "_SECRET_KEY"))  # where a secret lies, not what it is
            if SECRET_WORDS.search(entry["name"]) and not named:
                assert set(entry["valueFrom"]["secretKeyRef"]) == {"name", "key"}, (name, entry["name"])
    for entry in rendered.of("ConfigMap"):
        assert not [key for key in entry["data"] if SECRET_WORDS.search(key)]


def test_nothing_reaches_over_the_namespace(rendered: Rendered) -> None:
    kinds = {entry["kind"] for entry in rendered.objects}
    assert not kinds & {"ClusterRole", "ClusterRoleBinding", "CronJob", "DaemonSet", "Ingress", "Namespace", "Pod"}
    assert {entry["metadata"]["namespace"] for entry in rendered.objects} == {NAMESPACE}
    assert {entry["spec"]["type"] for entry in rendered.of("Service")} == {"ClusterIP"}


def test_objects_carry_kubernetes_labels(rendered: Rendered) -> None:
    for entry in rendered.objects:
        labels = entry["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "gliaflow"
        assert labels["app.kubernetes.io/instance"] == RELEASE
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert {"app.kubernetes.io/name", "app.kubernetes.io/version", "helm.sh/chart"} <= set(labels)
    names = [(entry["kind"], entry["metadata"]["name"]) for entry in rendered.objects]
    assert len(names) == len(set(names))


def test_selectors_choose_their_pods_alone(rendered: Rendered) -> None:
    deployments = rendered.of("Deployment")
    for deployment in deployments:
        wanted = deployment["spec"]["selector"]["matchLabels"]
        chosen = [entry["metadata"]["name"] for entry in deployments if wanted.items() <= labels_of(entry).items()]
        assert chosen == [deployment["metadata"]["name"]]
        assert not wanted.items() <= labels_of(rendered.flow_run()).items()
        for spread in pod_of(deployment).get("topologySpreadConstraints", []):
            assert spread["labelSelector"]["matchLabels"] == wanted
    for kind in ("Service", "PodDisruptionBudget"):
        assert [entry["metadata"]["name"] for entry in rendered.of(kind)] == [
            f"{RELEASE}-{n}" for n in sorted(SERVICES)
        ]
    for name in SERVICES:
        wanted = rendered.named("Deployment", name)["spec"]["selector"]["matchLabels"]
        assert rendered.named("Service", name)["spec"]["selector"] == wanted
        assert rendered.named("PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"] == wanted


def test_services_lead_to_the_port_that_is_served(rendered: Rendered) -> None:
    settings_of_jobs = rendered.named("ConfigMap", "pipelines")["data"]
    for field in SERVICE_NAMES:
        name = field.replace("_", "-")
        (container,) = pod_of(rendered.named("Deployment", name))["containers"]
        (port,) = rendered.named("Service", name)["spec"]["ports"]
        (opened,) = container["ports"]
        assert port["targetPort"] == opened["name"]
        assert settings_of_jobs[f"GLIAFLOW_{field.upper()}_URL"] == f"http://{RELEASE}-{name}:{port['port']}"
        assert container["command"][:3] == ["gliaflow", "serve", field]
        assert container["command"][3:] == ["--host", "0.0.0.0", "--port", str(opened["containerPort"])]


def test_references_lead_somewhere(rendered: Rendered) -> None:
    accounts = {entry["metadata"]["name"] for entry in rendered.of("ServiceAccount")}
    maps = {entry["metadata"]["name"] for entry in rendered.of("ConfigMap")}
    claims = {entry["metadata"]["name"] for entry in rendered.of("PersistentVolumeClaim")}
    for workload in [*rendered.workloads(), rendered.flow_run(role="promoter")]:
        pod = pod_of(workload)
        assert pod["serviceAccountName"] in accounts
        for container in pod["containers"]:
            assert {entry["configMapRef"]["name"] for entry in container.get("envFrom", [])} <= maps
        for volume in pod["volumes"]:
            assert volume.get("configMap", {"name": next(iter(maps))})["name"] in maps
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims


def environment_of(rendered: Rendered, container: Object) -> dict[str, str]:
    """Return the variables that a container sees, secrets and limits made up."""
    seen: dict[str, str] = {}
    for source in container["envFrom"]:
        seen |= rendered.named("ConfigMap", source["configMapRef"]["name"].removeprefix(f"{RELEASE}-"))["data"]
    for entry in container["env"]:
        if "value" in entry:
            seen[entry["name"]] = entry["value"]
        elif "secretKeyRef" in entry["valueFrom"]:
            seen[entry["name"]] = "from-a-secret"
        else:
            assert entry["valueFrom"]["resourceFieldRef"]["containerName"] == container["name"]
            seen[entry["name"]] = "2"
    return seen


def test_processes_accept_their_settings(rendered: Rendered, monkeypatch: pytest.MonkeyPatch) -> None:
    for workload in rendered.workloads():
        (container,) = pod_of(workload)["containers"]
        if "envFrom" not in container:
            continue
        with monkeypatch.context() as patch:
            for name, value in environment_of(rendered, container).items():
                patch.setenv(name, value)
                if name.startswith("GLIAFLOW_"):
                    assert name.removeprefix("GLIAFLOW_").lower() in Settings.model_fields
            made = Settings()
            assert made.token is not None
            assert made.workers == 2
            stored = {"/data": "/data"}.get(made.storage_root, "s3://")
            assert made.storage_root.startswith(stored)
            if container["name"] == "service":
                settings.cache_clear()
                assert serve_command(container["command"][2], host="0.0.0.0")
    settings.cache_clear()


def test_gpus_go_where_they_are_asked_for(profiles: dict[str, Rendered]) -> None:
    def gpus(made: Rendered) -> dict[str, Any]:
        return {
            name: container["resources"]["limits"]["nvidia.com/gpu"]
            for name, container in made.containers()
            if container["resources"]["limits"].get("nvidia.com/gpu")
        }

    assert gpus(profiles["cpu"]) == {}
    assert gpus(profiles["gpu"]) == {"rel-segmentation": 1, "rel-model-serving": 1}
    assert gpus(profiles["production"]) == {"rel-segmentation": 1}
    for made in profiles.values():
        for name in SERVICES:
            deployment = made.named("Deployment", name)
            wanted = f"{RELEASE}-{name}" in gpus(made)
            pod = pod_of(deployment)
            device = made.named("ConfigMap", name)["data"]["GLIAFLOW_DEVICE"]
            assert device == ("cuda" if wanted else "cpu")
            assert ("runtimeClassName" in pod) == wanted
            assert ("nodeSelector" in pod) == wanted
            assert ("tolerations" in pod) == wanted
            if wanted:  # the old pod gives its GPU to the new one
                assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_a_mig_slice_takes_the_place_of_a_gpu(charts: Charts) -> None:
    slice_of_gpu = "nvidia.com/mig-1g.18gb"
    made = charts.template(
        "gpu", {"segmentation": {"gpu": {"resource": slice_of_gpu}}, "jobs": {"gpu": {"resource": slice_of_gpu}}}
    )
    (container,) = pod_of(made.named("Deployment", "segmentation"))["containers"]
    assert container["resources"]["limits"][slice_of_gpu] == 1
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    (job,) = pod_of(made.flow_run(gpus=2))["containers"]
    assert job["resources"]["limits"][slice_of_gpu] == 2


def test_one_autoscaler_owns_the_replicas(rendered: Rendered) -> None:
    scalers = [*rendered.of("HorizontalPodAutoscaler"), *rendered.of("ScaledObject")]
    targets = [entry["spec"]["scaleTargetRef"]["name"] for entry in scalers]
    assert len(targets) == len(set(targets))
    for deployment in rendered.of("Deployment"):
        name = deployment["metadata"]["name"]
        assert ("replicas" in deployment["spec"]) == (name not in targets)
    for scaler in scalers:
        spec = scaler["spec"]
        low, high = (spec.get(f"{end}Replicas", spec.get(f"{end}ReplicaCount")) for end in ("min", "max"))
        assert 1 <= low < high


def test_budgets_let_nodes_be_emptied(rendered: Rendered) -> None:
    for budget in rendered.of("PodDisruptionBudget"):
        assert "minAvailable" not in budget["spec"]
        assert budget["spec"]["maxUnavailable"] >= 1


def test_production_survives_the_loss_of_a_node(profiles: dict[str, Rendered]) -> None:
    production = profiles["production"]
    for name in SERVICES:
        replicas = production.named("Deployment", name)["spec"].get("replicas")
        for kind, field in (("HorizontalPodAutoscaler", "minReplicas"), ("ScaledObject", "minReplicaCount")):
            if production.has(kind, name):
                replicas = production.named(kind, name)["spec"][field]
        assert replicas >= 2
        assert production.named("PodDisruptionBudget", name)["spec"]["maxUnavailable"] < replicas
    assert production.named("ConfigMap", "segmentation")["data"]["GLIAFLOW_ENVIRONMENT"] == "production"


def test_storage_is_a_claim_or_a_bucket(profiles: dict[str, Rendered]) -> None:
    for profile, made in profiles.items():
        bucket = profile == "production"
        assert len(made.of("PersistentVolumeClaim")) == (0 if bucket else 1)
        for workload in [*(made.named("Deployment", name) for name in SERVICES), made.flow_run()]:
            kinds = {kind for volume in pod_of(workload)["volumes"] for kind in volume}
            names = {entry["name"] for entry in pod_of(workload)["containers"][0]["env"]}
            assert ("persistentVolumeClaim" in kinds) != bucket
            assert ("AWS_SECRET_ACCESS_KEY" in names) == bucket


def test_a_claim_of_the_sites_own_is_used(charts: Charts) -> None:
    made = charts.template("cpu", {"global": {"storage": {"pvc": {"existingClaim": "pacs"}}}})
    assert not made.of("PersistentVolumeClaim")
    for workload in [made.named("Deployment", "segmentation"), made.flow_run()]:
        claims = [v["persistentVolumeClaim"] for v in pod_of(workload)["volumes"] if v["name"] == "storage"]
        assert claims == [{"claimName": "pacs"}]


def test_a_site_replaces_the_storage_of_a_profile(charts: Charts) -> None:
    store = [{"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}], "ports": [{"protocol": "TCP", "port": 443}]}]
    bucket = {"pvc": None, "s3": {"bucket": "mri-data", "prefix": "gliaflow/v1"}}
    made = charts.template("cpu", {"global": {"storage": bucket, "network": {"storage": store}}})
    assert not made.of("PersistentVolumeClaim")
    for name in (*SERVICES, "pipelines"):
        assert made.named("ConfigMap", name)["data"]["GLIAFLOW_STORAGE_ROOT"] == "s3://mri-data/gliaflow/v1"
    assert store[0] in made.named("NetworkPolicy", "segmentation")["spec"]["egress"]
    assert store[0] in made.named("NetworkPolicy", "pipelines")["spec"]["egress"]
    assert store[0] not in made.named("NetworkPolicy", "worker")["spec"]["egress"]


def test_numbers_are_written_as_processes_read_them(charts: Charts) -> None:
    values = {
        "segmentation": {"settings": {"max_request_mb": 2_000_000, "request_timeout_s": 0.5}},
        "global": {"user": 1_000_650_000},
    }
    made = charts.template("cpu", values)
    data = made.named("ConfigMap", "segmentation")["data"]
    assert (data["GLIAFLOW_MAX_REQUEST_MB"], data["GLIAFLOW_REQUEST_TIMEOUT_S"]) == ("2000000", "0.5")
    for workload in made.workloads():
        assert pod_of(workload)["securityContext"]["runAsUser"] == 1_000_650_000


def test_one_service_installs_alone(charts: Charts) -> None:
    values = {
        "service": "survival_analytics",
        "global": {"token": {"existingSecret": "mine"}, "storage": {"pvc": {"existingClaim": "volumes"}}},
    }
    assert charts.run("lint", "--strict", *charts.arguments(None, values, "service")).returncode == 0
    made = charts.template(values=values, chart="service")
    assert {entry["metadata"]["name"] for entry in made.objects} == {"rel-survival-analytics"}
    assert len(made.of("Deployment")) == 1
