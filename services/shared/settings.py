"""The only reader of the environment: every setting is a ``GLIAFLOW_*`` variable with a typed default."""

from __future__ import annotations

import os
import sys
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.shared.processors import available_processors

ServiceName = Literal["preprocessing", "segmentation", "feature_store", "model_serving", "survival_analytics"]
SERVICE_NAMES: tuple[ServiceName, ...] = (
    "preprocessing",
    "segmentation",
    "feature_store",
    "model_serving",
    "survival_analytics",
)


class Settings(BaseSettings):
    """Settings of one process. ``GLIAFLOW_STORAGE_ROOT=s3://bucket/prefix`` sets ``storage_root``, and so on."""

    model_config = SettingsConfigDict(env_prefix="GLIAFLOW_", extra="ignore", frozen=True)

    environment: Literal["development", "production"] = "development"
    storage_root: str = Field("workspace", description="Folder or s3:// URL below which every key lives")
    runner: Literal["process", "thread", "dask", "kubernetes"] = Field(
        "process", description="Where per-case work runs"
    )
    workers: int = Field(default_factory=available_processors, ge=1, description="Cases at a time")
    device: str = Field("auto", description="Torch device: auto, cpu, cuda, cuda:1 …")
    token: SecretStr | None = Field(None, description="Bearer token that callers of a service must send")
    max_request_mb: int = Field(64, ge=1, description="Largest request body a service accepts")
    request_timeout_s: float = Field(3600.0, gt=0, description="Seconds a service may take for one request")
    preprocessing_url: str | None = None
    segmentation_url: str | None = None
    feature_store_url: str | None = None
    model_serving_url: str | None = None
    survival_analytics_url: str | None = None
    feature_registry_url: SecretStr | None = Field(
        None, description="Feast registry, an SQLAlchemy URL; default a file"
    )
    feature_online_url: SecretStr | None = Field(
        None, description="Feast online store, redis://host:port; default a file"
    )
    atlas: str = Field("icbm152", description="icbm152, or a folder that holds SRI24 volumes")
    dvc_remote: str | None = Field(
        None, description="Folder or s3:// URL that keeps every version of data and models; default .dvc/config's"
    )
    dvc_endpoint_url: str | None = Field(None, description="Where the object store of dvc_remote listens; default AWS")
    tcia_url: str = Field(
        "https://services.cancerimagingarchive.net/nbia-api/services/v4", description="NBIA REST interface of TCIA"
    )
    gdc_url: str = Field("https://api.gdc.cancer.gov", description="REST interface of the Genomic Data Commons")
    model_pins: dict[str, str] = Field(
        default_factory=dict,
        description='Versions that model_serving serves in place of champions: {"grading": "v0002-0123456789ab"}',
    )
    kubeconfig: Path | None = Field(None, description="Kubeconfig of the cluster; default the pod's own, or kubectl's")
    kubernetes_namespace: str | None = Field(None, description="Namespace; default the pod's, or the kubeconfig's")
    kubernetes_deployment: str = Field("gliaflow-model-serving", description="Deployment that serves models")
    work_pool: str = Field("gliaflow", description="Prefect work pool of type kubernetes that runs jobs")
    real_data: Path = Field(Path("../shared/data"), description="Folder of public data for real-input runs")
    r_oracle: Path = Field(Path("../shared/r-oracle"), description="Folder of reference results from R")
    dask_scheduler: str | None = Field(
        None, description="Dask scheduler, tcp:// or tls://HOST:PORT; default one on this machine"
    )
    cases_per_job: int = Field(50, ge=1, description="Most cases that a job of the runner kubernetes takes")
    job_cores: int = Field(2, ge=1, description="Processor cores of such a job, and cases that it computes at a time")
    job_memory: str | None = Field(None, description="Memory of such a job, 16Gi for example; default the work pool's")
    job_gpus: int = Field(0, ge=0, description="GPUs of such a job where it segments")

    @model_validator(mode="after")
    def _refuse_unsafe_production(self) -> Settings:
        if self.environment == "production" and self.token is None:
            raise ValueError("GLIAFLOW_TOKEN must be set when GLIAFLOW_ENVIRONMENT=production")
        return self

    def service_url(self, name: ServiceName) -> str | None:
        """Return where a service listens, or None when it runs in this process."""
        url: str | None = getattr(self, f"{name}_url")
        return url or None


_LIBRARY_DEFAULTS = {
    "BENTOML_DO_NOT_TRACK": "True",
    "DASK_LOGGING__DISTRIBUTED": "warning",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "FEAST_USAGE": "False",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}


def quiet_libraries() -> None:
    """Give libraries their defaults for this platform: no telemetry, no chatter; what the user set stays.

    Must run before the libraries are imported; worker processes inherit it.
    """
    for name, value in _LIBRARY_DEFAULTS.items():
        os.environ.setdefault(name, value)
    root = settings().storage_root
    home = Path(root).resolve() if "://" not in root else Path.home() / ".gliaflow"
    os.environ.setdefault("PREFECT_HOME", str(home / ".prefect"))
    for module in (r"_bentoml_sdk", r"pathspec"):
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=module)


def make_prefect_home() -> None:
    """Make the folder that Prefect keeps its state in; it does not make the folders above it."""
    home = os.environ.get("PREFECT_HOME")
    if home is not None:
        Path(home).mkdir(parents=True, exist_ok=True)


_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")


def bound_threads(count: int) -> None:
    """Bound the threads of numerical libraries in processes that start after this call."""
    os.environ.update(dict.fromkeys(_THREADS, str(count)))


def default_threads() -> None:
    """Bound them by the processors that this process may use, which libraries do not ask; what the user set stays."""
    for name in _THREADS:
        os.environ.setdefault(name, str(available_processors()))


def stage_environment(folder: Path, *, storage_root: str) -> dict[str, str]:
    """Return the environment of a process that runs a stage of a checkout.

    The checkout's own code goes before what is installed, this interpreter's commands before others, and the storage
    root is the checkout's whatever this process has.
    """
    inherited = dict(os.environ)
    first = {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": str(folder)}
    joined = {name: os.pathsep.join([part, *filter(None, [inherited.get(name)])]) for name, part in first.items()}
    return {**inherited, **joined, "GLIAFLOW_STORAGE_ROOT": storage_root}


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Return this process's settings, read once."""
    return Settings()
