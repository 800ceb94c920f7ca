"""The one contract of the five services: in this process and over HTTP, the same results and the same errors."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version

import httpx
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from pipelines.clients import RemoteService, endpoint_contracts, service_class
from pipelines.rollout.metrics import Sample, figures, increase, read_sample
from services.feature_store.contracts import (
    EntityRow,
    ExtractParameters,
    ExtractRequest,
    HistoricalRequest,
    OnlineRequest,
    RegisterRequest,
)
from services.model_serving.contracts import (
    DeepParameters,
    DeepRequest,
    DescribeModelRequest,
    ExplainRequest,
    ImagingRequest,
    ListModelsRequest,
    PredictRequest,
)
from services.model_serving.contracts import RegisterRequest as RegisterModelRequest
from services.model_serving.networks.specification import PAPER_SPECS, build_network
from services.model_serving.package import (
    CoxSignature,
    Estimate,
    FittedModel,
    LogisticClassifier,
    ModelCard,
    TrainingData,
    pack,
    write_package,
)
from services.preprocessing.contracts import DiffusionRequest, PrepareParameters, PrepareRequest
from services.segmentation.contracts import (
    DEFAULT_ABNORMALITY_MODEL,
    AbnormalityRequest,
    SegmentParameters,
    SegmentRequest,
)
from services.segmentation.slice_network import SliceNetworkSpec, build_slice_network
from services.shared.cohort import CaseKeys, Region, Sequence
from services.shared.contracts import CaseRef
from services.shared.device import TORCH_SERVICES, choose_device
from services.shared.errors import (
    InvalidValue,
    MissingSequence,
    NotFound,
    ServiceFault,
    TooLarge,
    Unauthorised,
    Unavailable,
)
from services.shared.settings import SERVICE_NAMES, ServiceName
from services.shared.storage import Storage
from services.shared.trained_network import save_network
from services.shared.volume import write_volume
from tests.contracts.servers import FOR_GPUS, IN_IMAGES, Server

pytestmark = pytest.mark.xdist_group("contracts")

CASES = tuple(CaseRef(cohort="phantom", id=f"phantom000{number}") for number in (1, 2))
ABSENT = CaseRef(cohort="phantom", id="nobody")
PREPARE = PrepareParameters(voxel_mm=6.0)
EXTRACT = ExtractParameters(minimum_voxels=4)


def prepare(both) -> None:
    for case in CASES:
        both.call("preprocessing", "prepare", PrepareRequest(case=case, parameters=PREPARE))


def segment(both) -> None:
    prepare(both)
    for case in CASES:
        both.call("segmentation", "segment", SegmentRequest(case=case, parameters=SegmentParameters(source="expert")))


def extract(both) -> None:
    segment(both)
    for case in CASES:
        both.call("feature_store", "extract", ExtractRequest(case=case, parameters=EXTRACT))


def test_preprocessing(both) -> None:
    prepare(both)
    volumes = both.same_files("derivatives/preprocessed", suffix=".nii.gz")
    assert sum("/anat/" in key for key in volumes) == 12
    again = both.call("preprocessing", "prepare", PrepareRequest(case=CASES[0], parameters=PREPARE))
    assert again.cached
    assert isinstance(both.fail("preprocessing", "prepare", PrepareRequest(case=ABSENT)), MissingSequence)


def test_diffusion_maps(both) -> None:
    prepare(both)
    result = both.call("preprocessing", "prepare_diffusion", DiffusionRequest(case=CASES[0]))
    assert sorted(result.maps) == ["AD", "FA", "MD", "RD"]
    assert len(both.same_files(f"derivatives/preprocessed/phantom/sub-{CASES[0].id}/dwi", suffix=".nii.gz")) == 4
    assert isinstance(both.fail("preprocessing", "prepare_diffusion", DiffusionRequest(case=ABSENT)), NotFound)


def test_segmentation(both) -> None:
    segment(both)
    assert len(both.same_files("derivatives/segmentation", suffix=".nii.gz")) == 2
    request = SegmentRequest(case=CASES[0], parameters=SegmentParameters(source="expert"))
    result = both.call("segmentation", "segment", request)
    assert result.tumour_found
    assert result.source == "expert"
    assert isinstance(both.fail("segmentation", "segment", SegmentRequest(case=ABSENT)), MissingSequence)
    network = SegmentRequest(case=CASES[0], parameters=SegmentParameters(source="network"))
    assert isinstance(both.fail("segmentation", "segment", network), NotFound)


def test_outline_of_the_flair_abnormality(both) -> None:
    spec = SliceNetworkSpec(width=8, side=32)
    torch.manual_seed(0)
    state = build_slice_network(spec).state_dict()
    case = CaseRef(cohort="slices", id="one")
    values = np.random.default_rng(0).uniform(0, 200, (3, 24, 32)).astype(np.float32)
    for root in (both.here, both.there):
        save_network(Storage(root), DEFAULT_ABNORMALITY_MODEL, spec, state, training={})
        write_volume(Storage(root), CaseKeys(case).raw_image(Sequence.FLAIR), sitk.GetImageFromArray(values))
    result = both.call("segmentation", "segment_abnormality", AbnormalityRequest(case=case))
    assert result.missing_sequences == (Sequence.T1, Sequence.T1C)
    assert len(both.same_files("derivatives/segmentation/slices", suffix=".nii.gz")) == 1
    assert isinstance(
        both.fail("segmentation", "segment_abnormality", AbnormalityRequest(case=ABSENT)), MissingSequence
    )


def test_feature_store(both) -> None:
    extract(both)
    assert len(both.same_files("features/phantom/cases", suffix=".parquet")) == 2
    result = both.call("feature_store", "register", RegisterRequest(cohort="phantom", cases=CASES))
    assert result.rows == 2
    name = "T1c_WT_original_firstorder_Mean"
    online = both.call(
        "feature_store",
        "online_features",
        OnlineRequest(cohort="phantom", case_ids=tuple(case.id for case in CASES), names=(name,)),
    )
    historical = both.call(
        "feature_store",
        "historical_features",
        HistoricalRequest(
            cohort="phantom",
            rows=tuple(EntityRow(case_id=c.id, event_timestamp=datetime(2200, 1, 1, tzinfo=UTC)) for c in CASES),
            names=(name,),
        ),
    )
    assert [row.features for row in online.rows] == [row.features for row in historical.rows]
    assert all(np.isfinite(row.features[name]) for row in online.rows)
    wrong = OnlineRequest(cohort="phantom", case_ids=(CASES[0].id,), names=("T1c_WT_original_firstorder_Meen",))
    assert name in str(both.fail("feature_store", "online_features", wrong))


def test_model_serving(both) -> None:
    model = FittedModel(
        columns=("a", "b"),
        medians=np.array([0.0, 1.0]),
        means=np.array([0.5, 1.5]),
        scales=np.array([1.0, 2.0]),
        classifier=LogisticClassifier(coefficients=np.array([1.0, -2.0]), intercept=0.25),
        threshold=0.4,
    )
    card = ModelCard(
        study="toy",
        classes=("WT", "Mutant"),
        intended_use="A test.",
        metrics={"auc": Estimate(value=0.9, low=0.8, high=1.0)},
        training=TrainingData(
            patients=2, patients_by_class={"WT": 1, "Mutant": 1}, features_sha256="0" * 64, labels_sha256="1" * 64
        ),
        code_version="1",
        packages={},
    )
    for root in (both.here, both.there):
        write_package(Storage(root), "studies/phantom/toy/model", pack(model, card))
    registered = both.call("model_serving", "register", RegisterModelRequest(folder="studies/phantom/toy/model"))
    listed = both.call("model_serving", "list_models", ListModelsRequest())
    assert [entry.version for entry in listed.models] == [registered.version]
    assert both.call("model_serving", "describe_model", DescribeModelRequest(model="toy")).champion
    found = both.call("model_serving", "predict", PredictRequest(model="toy", features={"a": 1.0, "b": None}))
    assert found.probability == pytest.approx(1 / (1 + np.exp(-(0.25 + 0.5 + 0.5))))
    assert found.imputed == ("b",)
    assert isinstance(both.fail("model_serving", "predict", PredictRequest(model="none", features={})), NotFound)


def test_imaging_networks(both) -> None:
    segment(both)
    spec = PAPER_SPECS["slice_classifier"].model_copy(
        update={"source": "prepared", "view": "slice", "voxel_mm": 4.0, "size": (64, 64), "width": 4}
    )
    torch.manual_seed(0)
    state = build_network(spec).state_dict()
    for root in (both.here, both.there):
        save_network(Storage(root), "models/imaging/toy", spec, state, training={})
    found = both.call("model_serving", "predict_imaging", ImagingRequest(case=CASES[0], model="models/imaging/toy"))
    assert found.tumour_found
    assert found.label in spec.classes
    explained = both.call("model_serving", "explain", ExplainRequest(case=CASES[0], model="models/imaging/toy"))
    assert len(both.same_files("derivatives/explanations", suffix=".nii.gz")) == 1
    assert explained.overlay.endswith(".png")
    missing = ImagingRequest(case=CASES[0], model="models/imaging/none")
    assert isinstance(both.fail("model_serving", "predict_imaging", missing), NotFound)
    deep = DeepParameters(sequences=(Sequence.T1C,), regions=(Region.WT,))
    made = both.call("model_serving", "deep_features", DeepRequest(case=CASES[0], parameters=deep))
    assert made.features == 1000
    seen = deep.model_copy(update={"networks": ("models/imaging/toy",)})
    assert isinstance(
        both.fail("model_serving", "deep_features", DeepRequest(case=CASES[0], parameters=seen)), InvalidValue
    )


def test_model_serving_of_a_signature(both) -> None:
    model = FittedModel(
        columns=("a", "b"),
        medians=np.array([0.0, 1.0]),
        means=np.array([0.5, 1.5]),
        scales=np.array([1.0, 2.0]),
        classifier=CoxSignature(np.array([1.0, -2.0]), np.array([12.0, 24.0]), np.array([0.8, 0.5])),
        threshold=0.4,
    )
    card = ModelCard(
        study="signature",
        classes=("low", "high"),
        intended_use="A test.",
        metrics={"c_index": Estimate(value=0.7)},
        training=TrainingData(
            patients=2, patients_by_class={"censored": 1, "deaths": 1}, features_sha256="0" * 64, labels_sha256="1" * 64
        ),
        code_version="1",
        packages={},
        platform="log2(FPKM + 1)",
    )
    for root in (both.here, both.there):
        write_package(Storage(root), "studies/phantom/signature/model", pack(model, card))
    both.call("model_serving", "register", RegisterModelRequest(folder="studies/phantom/signature/model"))
    request = PredictRequest(model="signature", features={"a": 1.5, "b": None})
    found = both.call("model_serving", "predict", request)
    assert found.risk_score == pytest.approx(1.5)
    assert (found.probability, found.label) == (None, "high")
    assert [point.probability for point in found.survival] == pytest.approx([0.8 ** np.exp(1.5), 0.5 ** np.exp(1.5)])
    listed = both.call("model_serving", "list_models", ListModelsRequest(model="signature"))
    assert listed.models[0].c_index.value == 0.7


def test_survival_analytics_by_the_examples_of_its_documentation(both) -> None:
    contracts = endpoint_contracts(service_class("survival_analytics"))
    for name, (request, _) in contracts.items():
        example = request.model_json_schema()["example"]
        both.call("survival_analytics", name, request.model_validate(example))
    request, _ = contracts["fit_cox"]
    example = request.model_json_schema()["example"]
    example["data"]["columns"][example["time"]][0] = -1.0
    assert "-1" in str(both.fail("survival_analytics", "fit_cox", request.model_validate(example)))


@pytest.mark.parametrize("name", SERVICE_NAMES)
def test_every_service_tells_of_its_health_and_its_contract(both, name: ServiceName) -> None:
    client = both.server(name)
    with httpx.Client(base_url=client.url, trust_env=False) as http:
        assert http.get("/livez").is_success
        assert http.get("/readyz").is_success
        assert "bentoml_service" in http.get("/metrics").text
        paths = http.get("/docs.json").json()["paths"]
        for endpoint in client._endpoints:
            assert f"/{endpoint}" in paths
            reply = http.post(f"/{endpoint}", json={"nonsense": 1})
            assert reply.status_code == 400
            assert reply.headers["content-type"] == "application/problem+json"
            assert reply.json()["field"]
        assert http.post("/no-such-endpoint", json={}).status_code == 404


@pytest.mark.parametrize("name", SERVICE_NAMES)
def test_every_service_tells_its_version_and_where_it_computes(both, name: ServiceName) -> None:
    reply = httpx.get(f"{both.server(name).url}/version", trust_env=False)
    assert reply.headers["content-type"] == "application/json"
    told = reply.json()
    assert (told["service"], told["version"]) == (name, version("gliaflow"))
    if name not in TORCH_SERVICES:
        assert (told["device"], told["torch"], told["cuda"]) == ("cpu", None, None)
        return
    assert told["device"] == ("cpu" if IN_IMAGES else str(choose_device()))
    assert told["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert (told["cuda"] is not None) == (FOR_GPUS if IN_IMAGES else torch.version.cuda is not None)


def test_server_listens_on_loopback_only(both) -> None:
    url = both.server("segmentation").url
    port = url.rsplit(":", 1)[1]
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.2:{port}/readyz", trust_env=False, timeout=2)


def test_token_is_asked_for_and_health_is_open(start_server: Callable[..., Server]) -> None:
    server = start_server("segmentation", GLIAFLOW_TOKEN="right", GLIAFLOW_MAX_REQUEST_MB="1")
    client = server.client()
    with pytest.raises(Unauthorised, match="GLIAFLOW_TOKEN"):
        client.segment(SegmentRequest(case=ABSENT))
    assert httpx.get(f"{server.url}/version", trust_env=False).status_code == 401
    authorised = httpx.Client(base_url=server.url, headers={"Authorization": "Bearer right"}, trust_env=False)
    assert authorised.post("/segment", json={"case": {"cohort": "c", "id": "a"}}).json()["title"] == "Missing sequence"
    big = authorised.post("/segment", content=b" " * (2 << 20))
    assert big.status_code == TooLarge.status
    chunked = authorised.post("/segment", content=iter([b" " * (1 << 20)] * 3))
    assert chunked.status_code == TooLarge.status
    authorised.close()
    client.close()


def test_silent_server_is_named() -> None:
    client = RemoteService(service_class("segmentation"), "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="gliaflow serve"):
        client.segment(SegmentRequest(case=ABSENT))


def test_fault_of_the_service_is_no_fault_of_the_user(start_server: Callable[..., Server]) -> None:
    server = start_server("segmentation", GLIAFLOW_STORAGE_ROOT="no-such-protocol://x")
    client = server.client()
    with pytest.raises(ServiceFault, match="log"):
        client.segment(SegmentRequest(case=ABSENT))
    client.close()


def test_counters_of_a_service_become_figures(both) -> None:
    """Promotion watches what a real server counts: probes are no requests, a caller's mistake is no fault."""
    remote = both.server("model_serving")

    def sample() -> Sample:
        return read_sample(httpx.get(f"{remote.url}/metrics", trust_env=False).raise_for_status().text)

    before = sample()
    for _ in range(3):
        remote.list_models(ListModelsRequest())
    with pytest.raises(NotFound):
        remote.describe_model(DescribeModelRequest(model="nobody"))
    assert remote.is_ready()
    found = figures([increase(before, sample())])
    assert (found.requests, found.errors) == (4, 0)
    assert found.latency_p95_s is not None
