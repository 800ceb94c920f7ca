import pytest
from pydantic import ValidationError

from services.shared.settings import Settings


def test_production_without_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIAFLOW_ENVIRONMENT", "production")
    monkeypatch.delenv("GLIAFLOW_TOKEN", raising=False)
    with pytest.raises(ValidationError, match="GLIAFLOW_TOKEN"):
        Settings()
    monkeypatch.setenv("GLIAFLOW_TOKEN", "secret")
    assert "secret" not in repr(Settings())


def test_environment_names_where_a_service_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIAFLOW_SEGMENTATION_URL", "http://127.0.0.1:1")
    assert Settings().service_url("segmentation") == "http://127.0.0.1:1"
    assert Settings().service_url("preprocessing") is None
