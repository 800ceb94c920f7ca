"""``connect("segmentation")``: a service in this process, or its HTTP client; the same methods, results and errors."""

from __future__ import annotations

import importlib
import typing
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Literal, cast, overload

import httpx
from pydantic import BaseModel

from services.shared.errors import GliaflowError, NotFound, Problem, ServiceFault, Unavailable
from services.shared.settings import SERVICE_NAMES, ServiceName, settings

if TYPE_CHECKING:
    from services.feature_store.service import FeatureStore
    from services.model_serving.service import ModelServing
    from services.preprocessing.service import Preprocessing
    from services.segmentation.service import Segmentation
    from services.survival_analytics.service import SurvivalAnalytics


def service_class_name(name: ServiceName) -> str:
    """Return the class of a service: ``feature_store`` → ``FeatureStore``."""
    return "".join(part.capitalize() for part in name.split("_"))


def service_target(name: ServiceName) -> str:
    """Return what BentoML is told to serve: ``services.<name>.service:<Class>``."""
    return f"services.{name}.service:{service_class_name(name)}"


@overload
def connect(name: Literal["preprocessing"], *, url: str | None = None) -> Preprocessing: ...
@overload
def connect(name: Literal["segmentation"], *, url: str | None = None) -> Segmentation: ...
@overload
def connect(name: Literal["feature_store"], *, url: str | None = None) -> FeatureStore: ...
@overload
def connect(name: Literal["model_serving"], *, url: str | None = None) -> ModelServing: ...
@overload
def connect(name: Literal["survival_analytics"], *, url: str | None = None) -> SurvivalAnalytics: ...


def connect(name: ServiceName, *, url: str | None = None) -> object:
    """Return a service whose endpoints can be called.

    Parameters
    ----------
    name
        One of the five services.
    url
        Where it listens. Without one, ``GLIAFLOW_<NAME>_URL`` decides; where that is not set either, the service runs
        in this process.

    Raises
    ------
    NotFound
        Where there is no such service.
    """
    if name not in SERVICE_NAMES:
        raise NotFound("there is no such service", got=name, expected=", ".join(SERVICE_NAMES))
    kind = service_class(name)
    url = url or settings().service_url(name)
    return RemoteService(kind, url) if url else kind()


def service_class(name: ServiceName) -> Callable[[], object]:
    """Return the BentoML service object of a service; calling it gives an instance in this process."""
    module = importlib.import_module(f"services.{name}.service")
    return cast(Callable[[], object], getattr(module, service_class_name(name)))


def endpoint_contracts(kind: object) -> dict[str, tuple[type[BaseModel], type[BaseModel]]]:
    """Return each endpoint's request and result type."""
    inner = kind.inner  # type: ignore[attr-defined]
    found = {}
    for name, method in kind.apis.items():  # type: ignore[attr-defined]
        function = method.func
        hints = typing.get_type_hints(
            getattr(function, "__wrapped__", function), vars(importlib.import_module(inner.__module__))
        )
        result = hints.pop("return")
        (request,) = hints.values()
        found[name] = (request, result)
    return found


class RemoteService:
    """Calls a service's endpoints over HTTP and gives back contracts, or raises the service's own exceptions."""

    def __init__(self, kind: object, url: str, *, timeout_s: float | None = None) -> None:
        token = settings().token
        headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
        self.url = url.rstrip("/")
        self._endpoints = endpoint_contracts(kind)
        self._http = httpx.Client(
            base_url=self.url,
            headers={**headers, "Content-Type": "application/json"},
            timeout=httpx.Timeout(timeout_s or settings().request_timeout_s, connect=10.0),
            trust_env=False,
        )

    def __getattr__(self, name: str) -> Callable[[BaseModel], BaseModel]:
        endpoints = self.__dict__.get("_endpoints", {})
        if name not in endpoints:
            raise AttributeError(f"{self.__dict__.get('url')} has no endpoint {name!r}; it has {sorted(endpoints)}")
        _, result = endpoints[name]

        def call(request: BaseModel, /) -> BaseModel:
            reply = self._send("POST", f"/{name}", request.model_dump_json().encode())
            return cast(BaseModel, result.model_validate_json(reply.content))

        return call

    def is_ready(self) -> bool:
        """Return whether the service takes requests."""
        try:
            return self._http.get("/readyz").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def _send(self, method: str, path: str, body: bytes) -> httpx.Response:
        try:
            reply = self._http.request(method, path, content=body)
        except httpx.TransportError as error:
            raise Unavailable(
                "the service did not answer",
                field=f"{self.url}{path}",
                got=type(error).__name__,
                remedy="start it with 'gliaflow serve', or correct its GLIAFLOW_…_URL",
            ) from error
        if reply.is_success:
            return reply
        try:
            problem = cast(Problem, reply.json())
        except ValueError:
            problem = {"title": reply.reason_phrase, "status": reply.status_code, "detail": reply.text[:200]}
        error_of_service = GliaflowError.from_problem(problem)
        if reply.is_server_error and type(error_of_service) is GliaflowError:
            raise ServiceFault(
                error_of_service.detail,
                field=f"{self.url}{path}",
                got=f"HTTP {reply.status_code}",
                remedy="read the service's log",
            )
        raise error_of_service

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> RemoteService:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
