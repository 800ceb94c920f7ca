"""A connection to one namespace of a cluster, from inside it or by a kubeconfig, and its refusals as our errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError

from services.shared.errors import GliaflowError, InvalidValue, NotFound, Unauthorised, Unavailable
from services.shared.settings import settings

REQUEST_TIMEOUT_S = 30
_NAMESPACE_OF_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class NotAllowed(GliaflowError):
    """The cluster refuses what was asked: no role grants it, or a quota or a policy forbids it."""

    status = 403
    title = "The cluster refuses"


class ChangedMeanwhile(GliaflowError):
    """An object was changed by somebody else between reading and writing it."""

    status = 409
    title = "Changed meanwhile"


@dataclass(frozen=True)
class Cluster:
    """One namespace of a cluster.

    Attributes
    ----------
    inside
        Whether this process runs in a pod there, so that the addresses of pods lead somewhere.
    """

    api: client.ApiClient
    namespace: str
    inside: bool

    @property
    def core(self) -> client.CoreV1Api:
        """Pods and events."""
        return client.CoreV1Api(self.api)

    @property
    def batch(self) -> client.BatchV1Api:
        """Jobs."""
        return client.BatchV1Api(self.api)

    @property
    def apps(self) -> client.AppsV1Api:
        """Deployments."""
        return client.AppsV1Api(self.api)


def connect_cluster() -> Cluster:
    """Return the cluster that the settings name; else the one this process runs in; else the kubeconfig's.

    ``GLIAFLOW_KUBECONFIG`` names a kubeconfig, ``GLIAFLOW_KUBERNETES_NAMESPACE`` a namespace; both follow from the
    pod, or from kubeconfig's current context, where they are not set.

    Raises
    ------
    InvalidValue
        Where there is no cluster to connect to.
    """
    chosen = settings()
    inside = chosen.kubeconfig is None and _NAMESPACE_OF_POD.exists()
    configuration = client.Configuration()
    try:
        if inside:
            config.load_incluster_config(client_configuration=configuration)
            namespace = _NAMESPACE_OF_POD.read_text().strip()
        else:
            path = None if chosen.kubeconfig is None else str(chosen.kubeconfig)
            config.load_kube_config(config_file=path, client_configuration=configuration)
            _, context = config.list_kube_config_contexts(config_file=path)
            namespace = context["context"].get("namespace", "default")
    except (ConfigException, OSError) as error:
        raise InvalidValue(
            "there is no Kubernetes cluster to connect to",
            field="GLIAFLOW_KUBECONFIG",
            expected="a kubeconfig with a current context, or a pod with a service account's token",
            got=str(error),
            remedy="set GLIAFLOW_KUBECONFIG, or run as a job with the job variable role=promoter",
        ) from error
    # One try a request: whoever waits asks again, and says so.
    configuration.retries = False
    return Cluster(client.ApiClient(configuration), chosen.kubernetes_namespace or namespace, inside)


@contextmanager
def explained(action: str, *, field: str) -> Iterator[None]:
    """Turn what the cluster refuses inside the block into an error that says what was asked and what to do.

    Raises
    ------
    Unauthorised, NotAllowed, NotFound, ChangedMeanwhile, InvalidValue, Unavailable
    """
    try:
        yield
    except ApiException as error:
        raise _of_status(error, action, field) from error
    except HTTPError as error:
        raise Unavailable(
            f"the Kubernetes API did not answer: cannot {action}",
            field=field,
            got=str(error),
            remedy="look whether the cluster is up and this machine may reach it (worker.kubernetesApi of the chart)",
        ) from error


def _of_status(error: ApiException, action: str, field: str) -> GliaflowError:
    message = _message(error)
    if error.status == 401:
        return Unauthorised(
            f"the Kubernetes API does not know us: cannot {action}",
            field=field,
            got=message,
            remedy="renew the token of the kubeconfig or of the service account",
        )
    if error.status == 403:
        over = "exceeded quota" in message
        return NotAllowed(
            f"a quota of the namespace is exhausted: cannot {action}"
            if over
            else f"no role allows it: cannot {action}",
            field=field,
            got=message,
            remedy="free or raise the quota (resourceQuota of the chart)"
            if over
            else "use an account with the chart's promoter role (job variable role=promoter)",
        )
    if error.status == 404:
        return NotFound(
            f"there is no such object: cannot {action}",
            field=field,
            got=message,
            remedy="install the chart, or correct GLIAFLOW_KUBERNETES_NAMESPACE and GLIAFLOW_KUBERNETES_DEPLOYMENT",
        )
    if error.status == 409:
        return ChangedMeanwhile(f"somebody else changed it: cannot {action}", field=field, got=message)
    if error.status in (400, 422):
        return InvalidValue(f"the cluster finds it invalid: cannot {action}", field=field, got=message)
    return Unavailable(
        f"the Kubernetes API failed: cannot {action}", field=field, got=f"HTTP {error.status}: {message}"
    )


def _message(error: ApiException) -> str:
    """Return the message of the Status object that came, or what else there is."""
    try:
        return str(json.loads(error.body or "")["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)
