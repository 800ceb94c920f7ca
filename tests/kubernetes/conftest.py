"""A cluster for these tests: the stand-in, or the one that ``GLIAFLOW_TEST_KUBECONFIG`` names.

On a real cluster the suite makes namespaces of its own and deletes them. ``GLIAFLOW_TEST_IMAGE`` names an image with
Python 3 that the nodes can pull (default ``python:3.11-slim``).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cluster.connection import Cluster
from tests.charts.conftest import charts, tools  # noqa: F401 - fixtures that are shared
from tests.charts.rendered import Charts, Rendered
from tests.kubernetes.apiserver.cluster import StandIn
from tests.kubernetes.place import Place, apply, connection, wait_for

IMAGE = os.environ.get("GLIAFLOW_TEST_IMAGE", "python:3.11-slim")


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The cluster, as its administrator sees it."""
    folder = tmp_path_factory.mktemp("kubeconfigs")
    given = os.environ.get("GLIAFLOW_TEST_KUBECONFIG")
    if given:
        yield Place(Path(given), IMAGE, None, folder)
        return
    stand_in = StandIn(IMAGE)
    stand_in.start()
    try:
        yield Place(stand_in.kubeconfig(), IMAGE, stand_in, folder)
    finally:
        stand_in.stop()


@pytest.fixture
def admin(place: Place) -> Iterator[Cluster]:
    """A fresh namespace, as the administrator sees it; it is deleted afterwards."""
    name = f"gliaflow-test-{uuid.uuid4().hex[:8]}"
    cluster = place.admin(name)
    cluster.core.create_namespace({"metadata": {"name": name}})
    try:
        accounts = cluster.core.list_namespaced_service_account
        wait_for("the namespace's default account", lambda: accounts(name).items)
        yield cluster
    finally:
        cluster.core.delete_namespace(name)


@pytest.fixture(scope="session")
def release(charts: Charts) -> Rendered:  # noqa: F811
    """What the chart renders for a site with GPUs."""
    return charts.template("gpu")


@pytest.fixture
def promoter(place: Place, admin: Cluster, release: Rendered) -> Cluster:
    """The namespace as the chart's promoter sees it, with the rights that the chart gives."""
    account = release.named("ServiceAccount", "promoter")
    apply(admin, account, release.named("Role", "promoter"), release.named("RoleBinding", "promoter"))
    path = place.account(admin.namespace, account["metadata"]["name"])
    # The stand-in's pods have addresses that can be reached, as from inside a cluster.
    return connection(path, admin.namespace, inside=place.stand_in is not None)
