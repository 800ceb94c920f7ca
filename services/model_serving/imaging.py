"""An imaging network in use: what it says of a case in storage, and where it looked."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
from torch import nn

from services.model_serving.case_input import CaseVolumes, input_keys, prepare_input, read_volumes
from services.model_serving.contracts import ExplainRequest, Explanation, ImagingPrediction, ImagingRequest
from services.model_serving.explanation import class_activation, draw_overlay, highlighted, means_inside
from services.model_serving.inputs import NetworkInput, lay_back
from services.model_serving.networks.grade import GradeAndRisk
from services.model_serving.networks.specification import ImagingSpec, build_network, feature_layer
from services.shared.cohort import CaseKeys, Region, region_mask
from services.shared.device import choose_device, is_out_of_memory
from services.shared.errors import GliaflowError, InvalidValue
from services.shared.manifest import run_step
from services.shared.storage import Storage
from services.shared.trained_network import (
    NetworkCard,
    card_key,
    load_network,
    read_card,
    verified_sha256,
    weights_key,
)
from services.shared.volume import write_volume

Array = npt.NDArray[np.float32]

THRESHOLD = 0.5
STEP = "imaging model"
EXPLAIN_STEP = "explain"
VERSION = "3"
OUTSIDE_WARNING = 0.05


def predict_case(storage: Storage, request: ImagingRequest) -> ImagingPrediction:
    """Return what a trained network says of one case.

    A case without a tumour of the network's region is an answer; see
    :class:`services.model_serving.contracts.ImagingPrediction`.

    Raises
    ------
    NotFound, MissingSequence, InvalidVolume, SpaceMismatch, UnreadableFile
        Where the case cannot be used.
    NotFound, ChangedFile, InvalidValue
        Where the network is not there, or is not what its card says.
    """
    try:
        card, network = _resident_network(storage, request.model)
        spec = card.spec
        volumes = read_volumes(storage, request.case, spec)
        missing = tuple(str(name) for name in spec.sequences if name not in volumes.images)
        if _is_empty(volumes, spec):
            return _answer(request, card, tumour_found=False, missing=missing)
        made = prepare_input(spec, volumes.images, volumes.brain, volumes.labels, volumes.maps)
        found, notes = ask(network, made.values)
    except GliaflowError as error:
        raise error.with_context(case=str(request.case), step=STEP) from None
    chance, risk = read_output(found)
    said: dict[str, object] = {}
    if chance is not None:
        threshold = float(card.training.get("threshold", THRESHOLD))
        said |= {"probability": float(chance[0]), "positive_label": spec.classes[1], "threshold": threshold}
        said["label"] = spec.classes[int(chance[0] >= threshold)]
    if risk is not None:
        score = float(risk[0]) - float(card.training.get("risk_mean", 0.0))
        said["risk_score"] = score
        if "cutoff" in card.training:
            cutoff = float(card.training["cutoff"])
            said |= {"cutoff": cutoff, "high_risk": score >= cutoff}
    if made.outside_share > OUTSIDE_WARNING:
        notes = (*notes, f"{made.outside_share:.0%} of the region lies outside the network's input")
    return _answer(
        request, card, tumour_found=True, missing=missing, outside_share=made.outside_share, warnings=notes, **said
    )


def read_output(output: object) -> tuple[npt.NDArray[np.float64] | None, npt.NDArray[np.float64] | None]:
    """Return the probabilities of the positive class and the risks, as far as a network says them, (patients,)."""
    if isinstance(output, GradeAndRisk):
        return _chance(output.grade_logits), output.risk.detach().double().cpu().numpy()
    if not isinstance(output, torch.Tensor):
        raise InvalidValue("the network's output is of no known kind", step=STEP, got=type(output).__name__)
    if output.ndim == 1:
        return None, output.detach().double().cpu().numpy()
    return _chance(output), None


def _chance(logits: torch.Tensor) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = logits.detach().double().softmax(dim=1)[:, 1].cpu().numpy()
    return found


def ask(network: nn.Module, values: Array) -> tuple[Any, tuple[str, ...]]:
    """Return a network's output for one input, and what there is to say about how it came.

    Where a GPU's memory does not hold one patient, the processor answers.
    """
    inputs = torch.from_numpy(np.ascontiguousarray(values))[None]
    device = next(network.parameters()).device
    with torch.inference_mode():
        try:
            return network(inputs.to(device)), ()
        except (RuntimeError, MemoryError) as error:
            if device.type == "cpu" or not is_out_of_memory(error):
                raise
        try:
            return network.cpu()(inputs), (f"out of memory on {device}: the processor answered",)
        finally:
            network.to(device)


def explain_case(storage: Storage, request: ExplainRequest) -> Explanation:
    """Write where a network looked as a volume in the case's space and as a picture; do nothing where they are there.

    Grad-CAM of the last feature maps, laid back onto the grid of the case's volumes. A network of several sections has
    one map for all of them.

    Raises
    ------
    GliaflowError
        See :func:`predict_case`; InvalidValue where the network has no such target.
    """
    keys = CaseKeys(request.case)
    try:
        sha256 = verified_sha256(storage, request.model, ImagingSpec)
        spec = read_card(storage, request.model, ImagingSpec).spec
        target = request.target or ("class" if spec.task != "survival" else "risk")
        _target(spec, target)
        inputs = sorted(input_keys(storage, request.case, spec).values())
    except GliaflowError as error:
        raise error.with_context(case=str(request.case), step=EXPLAIN_STEP) from None
    folder = f"derivatives/explanations/{request.case.cohort}/{keys.subject}/{request.model}"
    named = f"{folder}/{keys.subject}_desc-{target}"
    statement = f"{named}_cam.json"

    def compute() -> list[str]:
        found = _explain(storage, request, target, named)
        storage.write_text(statement, found.model_dump_json(indent=2) + "\n")
        return [statement, *(key for key in (found.activation, found.overlay) if key)]

    _, cached = run_step(
        storage,
        f"{named}_manifest.json",
        step=EXPLAIN_STEP,
        step_version=VERSION,
        case=str(request.case),
        inputs=[*inputs, card_key(request.model), weights_key(request.model)],
        parameters={"target": target, "weights_sha256": sha256},
        packages=["SimpleITK", "monai", "numpy", "torch"],
        compute=compute,
        device=str(choose_device()),
    )
    found = Explanation.model_validate_json(storage.read_bytes(statement))
    return found.model_copy(update={"cached": cached})


def _explain(storage: Storage, request: ExplainRequest, target: Literal["class", "risk"], named: str) -> Explanation:
    card, network = _resident_network(storage, request.model)
    volumes = read_volumes(storage, request.case, card.spec)
    if _is_empty(volumes, card.spec):
        return Explanation(case=request.case, model=request.model, cached=False, tumour_found=False)
    made = prepare_input(card.spec, volumes.images, volumes.brain, volumes.labels, volumes.maps)
    activation = patient_activation(network, card.spec, made, volumes.labels, target=target)
    cam, overlay = f"{named}_cam.nii.gz", f"{named}_cam.png"
    write_volume(storage, cam, activation)
    values = sitk.GetArrayFromImage(activation)
    channels = {str(name): sitk.GetArrayFromImage(image) for name, image in volumes.images.items()}
    channels |= {name: sitk.GetArrayFromImage(image) for name, image in volumes.maps.items()}
    tumour = region_mask(sitk.GetArrayViewFromImage(volumes.labels), Region.WT)
    storage.write_bytes(overlay, _picture(next(iter(channels.values())), values, tumour, activation))
    total = float(values.sum())
    return Explanation(
        case=request.case,
        model=request.model,
        cached=False,
        tumour_found=True,
        activation=cam,
        overlay=overlay,
        share_in_tumour=float(values[tumour].sum()) / total if total > 0 else None,
        means=means_inside(highlighted(values), channels),
    )


def patient_activation(
    network: nn.Module,
    spec: ImagingSpec,
    made: NetworkInput,
    reference: sitk.Image,
    *,
    target: Literal["class", "risk"],
) -> sitk.Image:
    """Return a network's Grad-CAM for one patient on the grid of the patient's volumes, 0 to 1.

    The maps are the last with places enough to tell where; see
    :func:`services.model_serving.networks.specification.feature_layer`.

    Raises
    ------
    InvalidValue
        Where the network has no such target.
    """
    device = next(network.parameters()).device
    inputs = torch.from_numpy(np.ascontiguousarray(made.values))[None].to(device)
    found = class_activation(network, inputs, layer=feature_layer(network, spec.size), target=_target(spec, target))[0]
    laid = [sitk.GetArrayFromImage(lay_back(found, grid, reference)) for grid in made.grids]
    image = sitk.GetImageFromArray(np.clip(np.maximum.reduce(laid), 0.0, 1.0))
    image.CopyInformation(reference)
    return image


def _target(spec: ImagingSpec, target: Literal["class", "risk"]) -> Callable[[Any], torch.Tensor]:
    if (target == "class" and spec.task == "survival") or (target == "risk" and spec.task == "classes"):
        raise InvalidValue(
            "the network does not say what is to be explained",
            field="target",
            expected="class" if target == "risk" else "risk",
            got=target,
        )
    if spec.task == "both":
        if target == "risk":
            return lambda output: output.risk
        return lambda output: output.grade_logits[:, 1] - output.grade_logits[:, 0]
    if target == "risk":
        return lambda output: output
    return lambda output: output[:, 1] - output[:, 0]


def _picture(volume: Array, activation: Array, tumour: npt.NDArray[np.bool_], grid: sitk.Image) -> bytes:
    """Return the axial slice where the activation is strongest, right side of the patient on the left, front on top.

    The tumour is outlined. Where the network saw nothing that speaks for its answer, its largest slice is shown.
    """
    heat = activation.max(axis=(1, 2))
    z = int(heat.argmax() if heat.any() else tumour.sum(axis=(1, 2)).argmax())
    direction = np.array(grid.GetDirection()).reshape(3, 3)
    turn = (slice(None, None, 1 if direction[1, 1] >= 0 else -1), slice(None, None, 1 if direction[0, 0] >= 0 else -1))
    return draw_overlay(volume[z][turn], activation[z][turn], outline=tumour[z][turn])


def _is_empty(volumes: CaseVolumes, spec: ImagingSpec) -> bool:
    region = Region.WT if spec.view in ("sections", "whole") else spec.region
    if spec.view == "whole":
        return not sitk.GetArrayViewFromImage(volumes.brain).any()
    return not region_mask(sitk.GetArrayViewFromImage(volumes.labels), region).any()


def _answer(request: ImagingRequest, card: NetworkCard[ImagingSpec], **said: object) -> ImagingPrediction:
    return ImagingPrediction.model_validate(
        {
            "case": request.case,
            "model": request.model,
            "architecture": card.spec.architecture,
            "weights_sha256": card.weights_sha256,
            **said,
        }
    )


def _resident_network(storage: Storage, model: str) -> tuple[NetworkCard[ImagingSpec], nn.Module]:
    """Return a network that stays in memory as long as its file has the same hash."""
    return _load(storage.root, model, verified_sha256(storage, model, ImagingSpec), str(choose_device()))


@lru_cache(maxsize=2)
def _load(root: str, model: str, sha256: str, device: str) -> tuple[NetworkCard[ImagingSpec], nn.Module]:  # noqa: ARG001
    card, network = load_network(Storage(root), model, ImagingSpec, build_network)
    return card, network.to(device)
