"""Write a case's segmentation as a DICOM Segmentation object, on the slices of the series that it was imported from.

PS3.3 A.51: one binary segment a label, each slice referenced, the patient and study of the source taken over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence as ListOf
from copy import copy
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from services.segmentation.contracts import Finding
from services.segmentation.segment import finding_key
from services.shared.cohort import CaseKeys, Label, Sequence
from services.shared.errors import InvalidVolume, MissingDependency, NotFound, SpaceMismatch, UnreadableFile
from services.shared.storage import Storage
from services.shared.volume import describe_grid, read_volume

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom import Dataset

STEP = "dicom-seg"
_NEEDED = (
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
)
_SAME = ("SeriesInstanceUID", "FrameOfReferenceUID", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")
_POSITION_TOLERANCE_MM = 0.1
_CENTRE_TOLERANCE_MM = 20.0  # of the series' centre from that of the imported volume, which may have been cropped
_SEGMENT_LABELS = (Label.NECROTIC_CORE, Label.OEDEMA, Label.ENHANCING)


def dicom_seg_key(keys: CaseKeys, sequence: Sequence) -> str:
    """Key of a case's DICOM Segmentation on the slices of a sequence."""
    return f"{keys.segmentation_folder}/anat/{keys.subject}_space-{sequence}_dseg.dcm"


def write_dicom_seg(
    storage: Storage, keys: CaseKeys, source_series: ListOf[Dataset], *, sequence: Sequence = Sequence.T1C
) -> str:
    """Write a segmented case's labels as DICOM Segmentation and return its key.

    Segments 1, 2 and 3 are necrotic core, oedema and enhancing tumour. Each voxel of the source takes the label with
    the largest linearly interpolated share. The same segmentation and series give the same UIDs.

    Parameters
    ----------
    source_series
        The single-frame slices, in any order, that the case's ``sequence`` was converted from; their pixels are not
        needed. The object names their patient and study: it is as identifiable as they are.

    Raises
    ------
    NotFound
        Where the case is not segmented, or was not prepared here.
    InvalidVolume
        Where the slices lack an attribute or do not make one stack of equal steps.
    SpaceMismatch
        Where slices belong to several series, the series is not what the case was imported from, or the tumour lies
        outside it.
    MissingDependency
        Where highdicom is not installed.
    """
    try:
        return _write(storage, keys, source_series, sequence)
    except (InvalidVolume, MissingDependency, NotFound, SpaceMismatch) as error:
        raise error.with_context(case=str(keys.case), step=STEP) from None


def read_series(folder: Path) -> list[Dataset]:
    """Return the slices of the one series in a folder, without pixels, by their position.

    Raises
    ------
    NotFound
        Where the folder holds no DICOM image.
    SpaceMismatch, InvalidVolume, MissingDependency
        As :func:`write_dicom_seg`.
    UnreadableFile
        Where a file that begins as DICOM does cannot be read.
    """
    _require_highdicom()
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            dataset = dcmread(path, stop_before_pixels=True)
        except InvalidDicomError:
            continue
        except Exception as error:
            raise UnreadableFile(
                "the file cannot be read", field=path.name, expected="DICOM", got=type(error).__name__
            ) from error
        if "SOPInstanceUID" in dataset and "Rows" in dataset:
            found.append(dataset)
    if not found:
        raise NotFound("the folder holds no DICOM image", field="source_series", expected="the slices of one series")
    return series_grid(found)[0]


def series_grid(source_series: ListOf[Dataset]) -> tuple[list[Dataset], sitk.Image]:
    """Return a series' slices along their normal, and an empty volume on their grid (LPS, millimetres).

    Raises
    ------
    InvalidVolume, SpaceMismatch
        As :func:`write_dicom_seg`.
    """
    if len(source_series) < 2:
        raise InvalidVolume("a stack needs slices", expected="at least 2 slices", got=len(source_series))
    for dataset in source_series:
        lacking = [name for name in _NEEDED if name not in dataset]
        if lacking or int(dataset.get("NumberOfFrames", 1)) > 1:
            raise InvalidVolume(
                "the source is not a series of single slices with a position",
                field="source_series",
                expected=", ".join(_NEEDED),
                got="without " + ", ".join(lacking) if lacking else "a multi-frame image",
                remedy="give the original slices of the series",
            )
    first = source_series[0]
    for name in _SAME:
        if any(not _alike(dataset[name].value, first[name].value) for dataset in source_series):
            raise SpaceMismatch(
                "the slices do not belong together",
                field=name,
                expected="the slices of one series, parallel and of one size",
                got=f"different values of {name}",
                remedy="give the slices of one series alone",
            )
    along_x, along_y = np.array(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(along_x, along_y)
    positions = np.array([dataset.ImagePositionPatient for dataset in source_series], dtype=float)
    order = np.argsort(positions @ normal, kind="stable")
    positions = positions[order]
    steps = np.diff(positions, axis=0)
    step_mm = float(np.median(steps @ normal))
    if step_mm < _POSITION_TOLERANCE_MM or np.abs(steps - step_mm * normal).max() > _POSITION_TOLERANCE_MM:
        raise InvalidVolume(
            "the slices do not make one stack of equal steps",
            field="ImagePositionPatient",
            expected="equal steps along the slices' normal",
            got=f"steps of {float((steps @ normal).min()):.3g} to {float((steps @ normal).max()):.3g} mm",
            remedy="give one complete volume; a tilted or repeated one must be resampled first",
        )
    grid = sitk.Image([int(first.Columns), int(first.Rows), len(positions)], sitk.sitkUInt8)
    row_mm, column_mm = (float(value) for value in first.PixelSpacing)
    grid.SetSpacing([column_mm, row_mm, step_mm])
    grid.SetOrigin(positions[0].tolist())
    grid.SetDirection(np.column_stack([along_x, along_y, normal]).ravel().tolist())
    return [source_series[index] for index in order], grid


def _write(storage: Storage, keys: CaseKeys, source_series: ListOf[Dataset], sequence: Sequence) -> str:
    _require_highdicom()
    transform_key = keys.transform(sequence, keys.space)
    for key, remedy in ((keys.segmentation, "segment"), (finding_key(keys), "segment"), (transform_key, "prepare")):
        if not storage.exists(key):
            raise NotFound("the case lacks a file", field=key, remedy=f"run 'gliaflow {remedy}' first")
    slices, grid = series_grid(source_series)
    _check_source(storage, keys, sequence, grid)
    labels = read_volume(storage, keys.segmentation, pixel_type=sitk.sitkUInt8)
    with storage.local(transform_key) as path:
        to_sequence = sitk.ReadTransform(str(path))
    native = sitk.GetArrayFromImage(sitk.Resample(labels, grid, to_sequence.GetInverse(), sitk.sitkLabelLinear, 0))
    if sitk.GetArrayViewFromImage(labels).any() and not native.any():
        raise SpaceMismatch(
            "the tumour lies outside the series",
            field="source_series",
            expected=f"the series that {keys.raw_image(sequence)} was converted from",
            got=describe_grid(grid),
            remedy="give the series that the case was imported from",
        )
    finding = Finding.model_validate_json(storage.read_bytes(finding_key(keys)))
    built = _build(slices, grid.GetSpacing(), native, finding, digest=storage.sha256(keys.segmentation))
    key = dicom_seg_key(keys, sequence)
    with storage.publish(key) as path:
        built.save_as(path)
    return key


def _build(
    slices: list[Dataset],
    spacing_mm: tuple[float, ...],
    native: npt.NDArray[np.uint8],
    finding: Finding,
    *,
    digest: str,
) -> Segmentation:
    from highdicom.seg import Segmentation, SegmentationTypeValues

    segments = np.zeros(native.shape, dtype=np.uint8)
    for number, label in enumerate(_SEGMENT_LABELS, start=1):
        segments[native == label] = number
    number = int(slices[0].get("SeriesNumber") or 0)
    return Segmentation(
        source_images=[_with_thickness(data, spacing_mm[2]) for data in slices],
        pixel_array=segments,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=_describe_segments(finding),
        series_instance_uid=_uid("series", digest, slices),
        series_number=number + 1000,
        sop_instance_uid=_uid("instance", digest, slices),
        instance_number=1,
        manufacturer="gliaflow",
        manufacturer_model_name="gliaflow segmentation",
        software_versions=version("gliaflow"),
        device_serial_number=(finding.model_sha256 or digest)[:16],
        content_label="TUMOUR",
        content_description="Glioma: necrotic core, oedema, enhancing tumour",
        omit_empty_frames=bool(segments.any()),
    )


def _with_thickness(data: Dataset, step_mm: float) -> Dataset:
    """Return a slice that states a thickness, which the standard lets be absent: then the step between slices."""
    if data.get("SliceThickness"):
        return data
    completed = copy(data)
    completed.SliceThickness = step_mm
    return completed


def _describe_segments(finding: Finding) -> list[SegmentDescription]:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    how = SegmentAlgorithmTypeValues.MANUAL
    algorithm = None
    if finding.source == "network":
        how = SegmentAlgorithmTypeValues.AUTOMATIC
        algorithm = AlgorithmIdentificationSequence(
            name="gliaflow segmentation network",
            version=(finding.model_sha256 or "unknown")[:16],
            family=codes.DCM.ArtificialIntelligence,
        )
    kinds = (
        ("Necrotic core", codes.SCT.Necrosis),
        ("Oedema", codes.SCT.Edema),
        ("Enhancing tumour", codes.NCIt.EnhancingLesion),
    )
    return [
        SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=kind,
            algorithm_type=how,
            algorithm_identification=algorithm,
            anatomic_regions=[codes.SCT.Brain],
        )
        for number, (name, kind) in enumerate(kinds, start=1)
    ]


def _check_source(storage: Storage, keys: CaseKeys, sequence: Sequence, grid: sitk.Image) -> None:
    """Check that the series lies where the imported volume lies, where that is still there."""
    key = keys.raw_image(sequence)
    if not storage.exists(key):
        return
    raw = read_volume(storage, key)
    apart = np.linalg.norm(np.subtract(_centre(raw), _centre(grid)))
    if apart > _CENTRE_TOLERANCE_MM:
        raise SpaceMismatch(
            "the series does not lie where the imported volume lies",
            field="source_series",
            expected=f"{key}: {describe_grid(raw)}",
            got=describe_grid(grid),
            remedy="give the series that the case was imported from",
        )


def _centre(image: sitk.Image) -> tuple[float, ...]:
    return tuple(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))


def _alike(one: object, other: object) -> bool:
    if isinstance(one, str | int):
        return one == other
    return np.allclose(np.array(one, dtype=float), np.array(other, dtype=float), atol=1e-4)


def _uid(what: str, digest: str, slices: list[Dataset]) -> str:
    """Return a UID of the form 2.25.<128 bits> that follows from the segmentation and its source."""
    text = "\n".join([what, digest, *(str(dataset.SOPInstanceUID) for dataset in slices)])
    return f"2.25.{int.from_bytes(hashlib.sha256(text.encode()).digest()[:16])}"


def _require_highdicom() -> None:
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise MissingDependency(
            "DICOM Segmentation objects need a package that is not installed",
            expected="highdicom",
            got="none",
            remedy="install gliaflow[dicom]",
        ) from error
