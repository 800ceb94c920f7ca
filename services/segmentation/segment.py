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
VERSION = "1"


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


def _segment(storage: Storage, keys: CaseKeys, parameters: SegmentParameters) -> SegmentResult:
    require_sequences(storage, keys, step=STEP, prepared=True)
    if not storage.exists(keys.brain_mask):
        raise NotFound("the case has no brain mask", field=keys.brain_mask, remedy="run 'gliaflow prepare' first")
    has_expert = storage.exists(keys.preprocessed_segmentation)
    images = [keys.preprocessed_image(sequence) for sequence in SEQUENCES]
    inputs = [keys.brain_mask, *images, *([keys.preprocessed_segmentation] if has_expert else [])]
    make: Callable[[], tuple[sitk.Image, Finding]]
    if parameters.source == "expert" or (parameters.source == "auto" and has_expert):
        settled: dict[str, object] = {"source": "expert"}
        packages, device = ["SimpleITK"], "cpu"

        def make() -> tuple[sitk.Image, Finding]:
            return _from_expert(storage, keys)
    else:
        # Torch takes seconds to import: a case with an expert's segmentation does without it.
        from services.segmentation.inference import choose_device
        from services.segmentation.weights import card_key, read_card, weights_key

        model = parameters.model or DEFAULT_MODEL
        read_card(storage, model)
        inputs += [card_key(model), weights_key(model)]
        settled = {"source": "network", "model": model}
        settled |= parameters.model_dump(mode="json", include={"min_component_mm3", "memory_mb"})
        packages, device = ["SimpleITK", "monai", "numpy", "scipy", "torch"], str(choose_device())

        def make() -> tuple[sitk.Image, Finding]:
            return _from_network(storage, keys, model, parameters, compare=has_expert)

    def compute() -> list[str]:
        outputs = [keys.segmentation, finding_key(keys)]
        for key in outputs:
            storage.remove(key)
        labels, finding = make()
        write_volume(storage, keys.segmentation, labels)
        storage.write_text(finding_key(keys), finding.model_dump_json(indent=2) + "\n")
        return outputs

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
    return SegmentResult(
        case=keys.case,
        cached=cached,
        segmentation=keys.segmentation,
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


def _read_images(storage: Storage, keys: CaseKeys) -> tuple[dict[Sequence, sitk.Image], sitk.Image]:
    brain = read_volume(storage, keys.brain_mask, pixel_type=sitk.sitkUInt8)
    images = {}
    for sequence in SEQUENCES:
        key = keys.preprocessed_image(sequence)
        images[sequence] = read_volume(storage, key)
        require_same_grid(images[sequence], brain, name=key, reference_name="the brain mask")
    return images, brain


def _from_expert(storage: Storage, keys: CaseKeys) -> tuple[sitk.Image, Finding]:
    _, brain = _read_images(storage, keys)
    labels = read_expert_segmentation(storage, keys, brain)
    if not sitk.GetArrayViewFromImage(labels).any():
        raise InvalidMask(
            "the expert segmentation is empty",
            field=keys.preprocessed_segmentation,
            expected="at least one tumour voxel",
            got="none",
            remedy=f"correct or remove {keys.raw_segmentation}, or use the source 'network'",
        )
    return labels, _finding(labels, source="expert")


def _from_network(
    storage: Storage, keys: CaseKeys, model: str, parameters: SegmentParameters, *, compare: bool
) -> tuple[sitk.Image, Finding]:
    from services.segmentation.inference import load_predictor, predict_labels

    predictor = load_predictor(storage, model)
    images, brain = _read_images(storage, keys)
    labels = predict_labels(
        predictor,
        images,
        brain,
        min_component_mm3=parameters.min_component_mm3,
        memory_mb=parameters.memory_mb,
        threads=parameters.threads,
    )
    agreement = None
    if compare:
        expert = read_expert_segmentation(storage, keys, brain)
        agreement = region_dice(sitk.GetArrayViewFromImage(labels), sitk.GetArrayViewFromImage(expert))
    return labels, _finding(labels, source="network", dice=agreement, model_sha256=predictor.sha256)
