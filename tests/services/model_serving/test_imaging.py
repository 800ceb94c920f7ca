"""A trained imaging network in use: it answers, says where it looked, and refuses what is not its own."""

from __future__ import annotations

import io

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from services.model_serving import imaging
from services.model_serving.case_input import read_input, read_volumes
from services.model_serving.contracts import ExplainRequest, ImagingRequest
from services.model_serving.imaging import ask, explain_case, patient_activation, predict_case
from services.model_serving.networks.specification import PAPER_SPECS, build_network
from services.model_serving.service import ModelServing
from services.shared.cohort import CaseKeys, Region, Sequence, region_mask
from services.shared.contracts import CaseRef
from services.shared.errors import ChangedFile, InvalidValue, MissingSequence, NotFound
from services.shared.trained_network import save_network, weights_key
from services.shared.volume import read_volume, same_grid

MODEL = "models/imaging/test"
SPECS = {
    "slice_classifier": PAPER_SPECS["slice_classifier"].model_copy(
        update={"source": "prepared", "view": "slice", "voxel_mm": 4.0, "size": (64, 64), "width": 4, "absent": "zero"}
    ),
    "grade": PAPER_SPECS["grade"].model_copy(update={"size": (64, 64, 64), "voxel_mm": 4.0, "width": 4}),
    "grade_survival": PAPER_SPECS["grade_survival"].model_copy(update={"size": (64, 64), "voxel_mm": 4.0, "width": 4}),
    "diffusion_survival": PAPER_SPECS["diffusion_survival"].model_copy(
        update={"maps": (), "sequences": (Sequence.T1C, Sequence.FLAIR), "size": (64, 64), "width": 4}
    ),
}


def save(storage, spec, *, seed=0, **training):
    torch.manual_seed(seed)
    network = build_network(spec)
    network.train()
    with torch.no_grad():
        network(torch.randn(4, *spec.input_shape))  # running means that are not those of a fresh network
    save_network(storage, MODEL, spec, network.state_dict(), training=training)
    return network.eval()


@pytest.mark.parametrize("name", sorted(SPECS))
def test_the_service_says_what_the_network_says(storage, write_imaging_case, name):
    case, spec = write_imaging_case(1), SPECS[name]
    network = save(storage, spec, threshold=0.25, risk_mean=0.5, cutoff=-100.0)
    found = ModelServing().predict_imaging(ImagingRequest(case=case, model=MODEL))
    with torch.inference_mode():
        wanted = network(torch.from_numpy(read_input(storage, case, spec).values)[None])
    assert found.tumour_found
    if spec.task != "survival":
        logits = wanted.grade_logits if spec.task == "both" else wanted
        assert found.probability == pytest.approx(float(logits.softmax(dim=1)[0, 1]), abs=1e-5)
        assert (found.positive_label, found.threshold) == (spec.classes[1], 0.25)
        assert found.label == spec.classes[int(found.probability >= 0.25)]
    if spec.task != "classes":
        risk = wanted.risk if spec.task == "both" else wanted
        assert found.risk_score == pytest.approx(float(risk[0]) - 0.5, abs=1e-4)
        assert found.high_risk


def test_no_tumour_is_an_answer(storage, write_imaging_case):
    case = write_imaging_case(1, tumour=False)
    save(storage, SPECS["grade"])
    found = predict_case(storage, ImagingRequest(case=case, model=MODEL))
    assert (found.tumour_found, found.probability, found.label) == (False, None, None)
    explained = explain_case(storage, ExplainRequest(case=case, model=MODEL))
    assert (explained.tumour_found, explained.activation) == (False, None)


def test_a_sequence_that_is_not_there_is_named(storage, write_imaging_case):
    case = write_imaging_case(1)
    save(storage, SPECS["slice_classifier"])
    storage.remove(CaseKeys(case).preprocessed_image(Sequence.T1))
    assert predict_case(storage, ImagingRequest(case=case, model=MODEL)).missing == ("T1w",)
    save(storage, SPECS["grade"])
    with pytest.raises(MissingSequence) as caught:
        predict_case(storage, ImagingRequest(case=case, model=MODEL))
    assert caught.value.case == "demo/sub-p001"
    with pytest.raises(NotFound):
        predict_case(storage, ImagingRequest(case=case, model="models/imaging/none"))


def test_changed_weights_and_another_architecture_are_refused(storage, write_imaging_case):
    case = write_imaging_case(1)
    save(storage, SPECS["grade"])
    request = ImagingRequest(case=case, model=MODEL)
    predict_case(storage, request)
    good = storage.read_bytes(weights_key(MODEL))
    storage.write_bytes(weights_key(MODEL), good[:-1] + b"x")
    with pytest.raises(ChangedFile):
        predict_case(storage, request)
    wrong = build_network(SPECS["slice_classifier"])
    save_network(storage, MODEL, SPECS["grade"], wrong.state_dict(), training={})
    with pytest.raises(InvalidValue, match="do not fit the architecture"):
        predict_case(storage, request)


@pytest.mark.parametrize("name", sorted(SPECS))
def test_an_explanation_lies_in_the_patients_space(storage, write_imaging_case, name):
    case, spec = write_imaging_case(1), SPECS[name]
    save(storage, spec)
    found = ModelServing().explain(ExplainRequest(case=case, model=MODEL))
    brain = read_volume(storage, CaseKeys(case).brain_mask)
    activation = read_volume(storage, found.activation)
    assert same_grid(activation, brain)
    values = sitk.GetArrayFromImage(activation)
    assert 0 <= values.min() <= values.max() <= 1
    picture = Image.open(io.BytesIO(storage.read_bytes(found.overlay)))
    assert picture.size == (22 * 20, 24 * 20)
    assert set(found.means) == {str(s) for s in spec.sequences}
    assert explain_case(storage, ExplainRequest(case=case, model=MODEL)).cached
    with pytest.raises(InvalidValue, match="explained"):
        wrong = {"classes": "risk", "survival": "class"}.get(spec.task)
        if wrong is None:
            raise InvalidValue("both can be explained")
        explain_case(storage, ExplainRequest(case=case, model=MODEL, target=wrong))


def test_other_weights_look_elsewhere(storage, write_imaging_case):
    case = write_imaging_case(1)
    spec = SPECS["slice_classifier"].model_copy(update={"size": (128, 128), "voxel_mm": 2.0})
    maps = []
    for seed in range(4):
        save(storage, spec, seed=seed)
        activation = explain_case(storage, ExplainRequest(case=case, model=MODEL)).activation
        values = sitk.GetArrayFromImage(read_volume(storage, activation))
        maps += [values.ravel()] if values.any() else []
    seen = np.any(maps, axis=0)
    alike = np.corrcoef([values[seen] for values in maps])
    assert len(maps) >= 2
    assert alike[np.triu_indices(len(maps), 1)].max() < 0.9


def test_a_network_that_reads_the_core_is_seen_to_look_there(storage, write_imaging_case):
    """A network whose feature maps are the brightness of T1c must point at the bright core."""
    case = write_imaging_case(2, bright=200)
    spec = SPECS["slice_classifier"].model_copy(update={"region": Region.ET})

    class Brightness(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = build_network(spec).trunk
            pool = torch.nn.AvgPool2d(4)
            channel = spec.sequences.index(Sequence.T1C)
            self.trunk.body.layer3 = torch.nn.Identity()
            self.trunk.maps = lambda x: self.trunk.body.layer3(torch.relu(pool(x[:, channel : channel + 1]) - 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            value = self.trunk.maps(x).flatten(1).mean(dim=1, keepdim=True)
            return torch.cat([-value, value], dim=1)

    volumes = read_volumes(storage, case, spec)
    made = read_input(storage, case, spec)
    found = sitk.GetArrayFromImage(patient_activation(Brightness(), spec, made, volumes.labels, target="class"))
    core = region_mask(sitk.GetArrayFromImage(volumes.labels), Region.ET)
    assert found[core].sum() / found.sum() > 0.4
    assert core.mean() < 0.01


def test_a_gpu_without_memory_is_replaced_by_the_processor():
    class Full(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1, device="meta"))
            self.moved: list[str] = []

        def to(self, device):
            self.moved.append(str(device))
            return self

        def cpu(self):
            return lambda inputs: inputs.sum()

        def forward(self, inputs):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    network = Full()
    values, notes = ask(network, np.ones((1, 2, 2), np.float32))
    assert float(values) == 4.0
    assert "out of memory" in notes[0]
    assert network.moved == ["meta"]

    class Broken(Full):
        def forward(self, inputs):
            raise RuntimeError("another fault")

    with pytest.raises(RuntimeError, match="another fault"):
        ask(Broken(), np.ones((1, 2, 2), np.float32))


def test_a_resident_network_is_loaded_once(storage, write_imaging_case, monkeypatch):
    case = write_imaging_case(1)
    save(storage, SPECS["grade"])
    request = ImagingRequest(case=case, model=MODEL)
    first = predict_case(storage, request)
    loads = imaging._load.cache_info().misses
    assert predict_case(storage, request) == first
    assert imaging._load.cache_info().misses == loads


def test_an_unknown_case_is_an_error(storage):
    save(storage, SPECS["grade"])
    with pytest.raises(MissingSequence):
        predict_case(storage, ImagingRequest(case=CaseRef(cohort="demo", id="none"), model=MODEL))
