"""Segment one prepared case: the expert's segmentation where there is one, else the network's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import SimpleITK as sitk

from services.segmentation.contracts import DEFAULT_MODEL, Finding, SegmentParameters, SegmentRequest, SegmentResult
from services.segmentation.regions import region_dice, region_volumes_ml
from services.shared.cohort import SEQUENCES, CaseKeys, Sequence, normalise_labels, require_sequences
from services.shared.errors import GliaflowError, InvalidMask, NotFound
from services.shared.manifest import run_step
from services.shared.storage import Storage
from services.shared.volume import read_volume, require_same_grid, write_volume

STEP = "segment"
VERSION = "2"

Made = tuple[dict[str, sitk.Image], Finding]  # volumes by storage key, and what they say


def segment_case(storage: Storage, request: SegmentRequest) -> SegmentResult:
    """Write a case's segmentation, what it says beside it, and its manifest; do nothing where they are up to date.

    Raises
    ------
    MissingSequence, NotFound
        Where the case is not prepared, or there is neither an expert's segmentation nor a network for it.
    SpaceMismatch, InvalidMask, InvalidVolume, UnreadableFile
        Where volumes do not share a grid, the expert's segmentation is empty or holds an unknown label, or a file
        cannot be used.
    ChangedFile, InvalidValue
        Where the network is not what its card says.
    """
    keys = CaseKeys(request.case)
    try:
        return _segment(storage, keys, request.parameters)
    except GliaflowError as error:
        raise error.with_context(case=str(keys.case), step=STEP) from None


def finding_key(keys: CaseKeys) -> str:
    """Key of what a case's segmentation says: its sidecar in BIDS."""
    return keys.segmentation.removesuffix(".nii.gz") + ".json"


def entropy_key(keys: CaseKeys) -> str:
    """Key of the entropy of each voxel's class probabilities."""
    return keys.segmentation.removesuffix("_dseg.nii.gz") + "_desc-entropy.nii.gz"


def mutual_information_key(keys: CaseKeys) -> str:
    """Key of what mirrored inputs disagree about, voxel by voxel."""
    return keys.segmentation.removesuffix("_dseg.nii.gz") + "_desc-mutualinformation.nii.gz"


def _segment(storage: Storage, keys: CaseKeys, parameters: SegmentParameters) -> SegmentResult:
    present = tuple(s for s in SEQUENCES if storage.exists(keys.preprocessed_image(s)))
    if not present:  # a case that was never prepared is told so, whatever else is not there
        _require_prepared(storage, keys, present, optional=())
    has_expert = storage.exists(keys.preprocessed_segmentation)
    inputs = [keys.brain_mask, *([keys.preprocessed_segmentation] if has_expert else [])]
    inputs += [keys.preprocessed_image(sequence) for sequence in present]
    make: Callable[[], Made]
    if parameters.source == "expert" or (parameters.source == "auto" and has_expert):
        _require_prepared(storage, keys, present, optional=())
        settled: dict[str, object] = {"source": "expert"}
        packages, device = ["SimpleITK"], "cpu"

        def make() -> Made:
            return _from_expert(storage, keys)
    else:
        # Torch takes seconds to import: a case with an expert's segmentation does without it.
        from services.segmentation.weights import card_key, read_card, weights_key
        from services.shared.device import choose_device

        model = parameters.model or DEFAULT_MODEL
        _require_prepared(storage, keys, present, optional=read_card(storage, model).spec.optional)
        inputs += [card_key(model), weights_key(model)]
        settled = parameters.model_dump(mode="json", exclude={"threads"}) | {"source": "network", "model": model}
        packages, device = ["SimpleITK", "monai", "numpy", "scipy", "torch"], str(choose_device())

        def make() -> Made:
            return _from_network(storage, keys, model, parameters, present, compare=has_expert)

    def compute() -> list[str]:
        for key in (keys.segmentation, finding_key(keys), entropy_key(keys), mutual_information_key(keys)):
            storage.remove(key)
        volumes, finding = make()
        for key, volume in volumes.items():
            write_volume(storage, key, volume)
        storage.write_text(finding_key(keys), finding.model_dump_json(indent=2) + "\n")
        return [*volumes, finding_key(keys)]

    manifest, cached = run_step(
        storage,
        keys.manifest(STEP),
        step=STEP,
        step_version=VERSION,
        case=str(keys.case),
        inputs=inputs,
        parameters=settled,
        packages=packages,
        compute=compute,
        device=device,
    )
    finding = Finding.model_validate_json(storage.read_bytes(finding_key(keys)))
    entropy, information = entropy_key(keys), mutual_information_key(keys)
    return SegmentResult(
        case=keys.case,
        cached=cached,
        segmentation=keys.segmentation,
        entropy=entropy if entropy in manifest.outputs else None,
        mutual_information=information if information in manifest.outputs else None,
        seconds=manifest.seconds,
        **finding.model_dump(),
    )


def read_expert_segmentation(storage: Storage, keys: CaseKeys, grid: sitk.Image) -> sitk.Image:
    """Return the expert's segmentation (labels 0, 1, 2, 4; uint8), checked to lie on the prepared grid.

    Raises
    ------
    NotFound
        Where there is none.
    SpaceMismatch
        Where it lies on another grid.
    InvalidMask
        Where it holds a label that is not defined.
    """
    key = keys.preprocessed_segmentation
    if not storage.exists(key):
        raise NotFound(
            "the case has no expert segmentation",
            field=key,
            remedy=f"add {keys.raw_segmentation} and prepare the case, or use the source 'network'",
        )
    image = read_volume(storage, key)
    require_same_grid(image, grid, name=key, reference_name="the prepared volumes")
    values = sitk.GetArrayViewFromImage(image)
    whole = np.rint(values)
    if not np.array_equal(values, whole):
        raise InvalidMask(
            "the expert segmentation is not made of labels",
            field=key,
            expected="0, 1, 2 and 4",
            got=f"values between whole numbers, such as {float(values[values != whole][0]):.4g}",
            remedy="resample a segmentation with nearest neighbours or as labels",
        )
    labels = sitk.GetImageFromArray(normalise_labels(whole.astype(np.int64)))
    labels.CopyInformation(image)
    return labels


def _finding(labels: sitk.Image, **what: object) -> Finding:
    values = sitk.GetArrayViewFromImage(labels)
    volumes = region_volumes_ml(values, labels.GetSpacing())
    return Finding.model_validate({"tumour_found": bool(values.any()), "volumes_ml": volumes, **what})


def _require_prepared(
    storage: Storage, keys: CaseKeys, present: tuple[Sequence, ...], *, optional: tuple[Sequence, ...]
) -> None:
    if not present or not set(SEQUENCES) - set(present) <= set(optional):
        require_sequences(storage, keys, step=STEP, prepared=True)
    if not storage.exists(keys.brain_mask):
        raise NotFound("the case has no brain mask", field=keys.brain_mask, remedy="run 'gliaflow prepare' first")


def _read_images(
    storage: Storage, keys: CaseKeys, present: tuple[Sequence, ...]
) -> tuple[dict[Sequence, sitk.Image], sitk.Image]:
    brain = read_volume(storage, keys.brain_mask, pixel_type=sitk.sitkUInt8)
    images = {}
    for sequence in present:
        key = keys.preprocessed_image(sequence)
        images[sequence] = read_volume(storage, key)
        require_same_grid(images[sequence], brain, name=key, reference_name="the brain mask")
    return images, brain


def _from_expert(storage: Storage, keys: CaseKeys) -> Made:
    _, brain = _read_images(storage, keys, SEQUENCES)
    labels = read_expert_segmentation(storage, keys, brain)
    if not sitk.GetArrayViewFromImage(labels).any():
        raise InvalidMask(
            "the expert segmentation is empty",
            field=keys.preprocessed_segmentation,
            expected="at least one tumour voxel",
            got="none",
            remedy=f"correct or remove {keys.raw_segmentation}, or use the source 'network'",
        )
    return {keys.segmentation: labels}, _finding(labels, source="expert")


def _from_network(
    storage: Storage,
    keys: CaseKeys,
    model: str,
    parameters: SegmentParameters,
    present: tuple[Sequence, ...],
    *,
    compare: bool,
) -> Made:
    from services.segmentation.inference import load_predictor, predict_labels

    predictor = load_predictor(storage, model)
    images, brain = _read_images(storage, keys, present)
    found = predict_labels(predictor, images, brain, parameters)
    agreement = None
    if compare:
        expert = read_expert_segmentation(storage, keys, brain)
        agreement = region_dice(sitk.GetArrayViewFromImage(found.labels), sitk.GetArrayViewFromImage(expert))
    volumes = {keys.segmentation: found.labels}
    if found.entropy is not None:
        volumes[entropy_key(keys)] = found.entropy
    if found.mutual_information is not None:
        volumes[mutual_information_key(keys)] = found.mutual_information
    return volumes, _finding(
        found.labels,
        source="network",
        dice=agreement,
        model_sha256=predictor.sha256,
        missing_sequences=found.missing_sequences,
        expected_dice=found.expected_dice,
        passes="windows" if found.in_windows else "one",
        notes=found.notes,
    )
