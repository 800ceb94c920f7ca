"""Radiomic features of a prepared, segmented case: PyRadiomics, per sequence and region.

The values are those of PyRadiomics' own extractor on whole volumes. They come faster because every volume is read and
filtered once, on the bounding box of all regions with a margin, rather than once a region on the whole volume. Features
of the unfiltered volume and of wavelets are equal to PyRadiomics'; those of a Laplacian of Gaussian (a recursive,
hence endless, filter) differ by what lies outside the margin, see README.

Names are ``<Sequence>_<Region>_<PyRadiomics name>``; shape, which no sequence changes, is
``mask_<Region>_original_shape_<name>``.

References
----------
van Griethuysen et al., Cancer Research 2017;77:e104; Zwanenburg et al. (IBSI), Radiology 2020;295:328.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import SimpleITK as sitk
from radiomics import getFeatureClasses, imageoperations

from services.feature_store.contracts import ExtractParameters, ExtractResult, FeatureClass
from services.shared.cohort import CaseKeys, Region, normalise_labels, region_mask, require_sequences
from services.shared.contracts import CaseRef
from services.shared.errors import InvalidMask, NotFound
from services.shared.manifest import run_step
from services.shared.storage import Storage
from services.shared.volume import read_volume, require_same_grid

STEP = "extract"
STEP_VERSION = "1"
PACKAGES = ("pyradiomics", "PyWavelets", "SimpleITK", "numpy", "pyarrow")

Mask = npt.NDArray[np.bool_]

# A wavelet wraps round at the edge of what it is given; a region nearer to the edge than this needs the whole axis.
_WAVELET_MARGIN = 8

# PyRadiomics installs its own handler on standard error; features that it cannot compute are reported as undefined.
logging.getLogger("radiomics").setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True)
class Box:
    """Half-open index ranges along z, y and x."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    def crop(self, image: sitk.Image) -> sitk.Image:
        """Return the part of a volume inside the box, with its place in space."""
        size = [b - a for a, b in zip(self.start, self.stop, strict=True)]
        return sitk.RegionOfInterest(image, size[::-1], self.start[::-1])

    def within(self, other: Box) -> Box:
        """Return this box as counted from the corner of another that holds it."""
        return Box(
            _triple(a - o for a, o in zip(self.start, other.start, strict=True)),
            _triple(b - o for b, o in zip(self.stop, other.start, strict=True)),
        )

    @property
    def slices(self) -> tuple[slice, ...]:
        """Return the box as an index of an array."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))


def _triple(values: Iterable[int]) -> tuple[int, int, int]:
    z, y, x = values
    return z, y, x


def bounding_box(mask: Mask) -> Box:
    """Return the smallest box that holds a mask that is not empty."""
    start, stop = [], []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        found = np.flatnonzero(mask.any(axis=others))
        start.append(int(found[0]))
        stop.append(int(found[-1]) + 1)
    return Box(_triple(start), _triple(stop))


def filter_names(parameters: ExtractParameters) -> tuple[str, ...]:
    """Return PyRadiomics' names of the unfiltered and the filtered volumes that parameters ask for."""
    names = ["original"]
    names += [f"log-sigma-{str(sigma).replace('.', '-')}-mm-3D" for sigma in parameters.log_sigmas_mm]
    if parameters.wavelet is not None:
        names += [f"wavelet-{a}{b}{c}" for a in "LH" for b in "LH" for c in "LH"]
    return tuple(names)


def feature_names(parameters: ExtractParameters) -> tuple[str, ...]:
    """Return the sorted names of the features that every case gets under these parameters."""
    classes = getFeatureClasses()
    names: list[str] = []
    for feature_class in parameters.feature_classes:
        made = sorted(name for name, deprecated in classes[feature_class].getFeatureNames().items() if not deprecated)
        for region in parameters.regions:
            if feature_class is FeatureClass.SHAPE:
                names += [f"mask_{region}_original_shape_{name}" for name in made]
                continue
            names += [
                f"{sequence}_{region}_{volume}_{feature_class}_{name}"
                for sequence in parameters.sequences
                for volume in filter_names(parameters)
                for name in made
            ]
    return tuple(sorted(names))


def is_measurable(mask: Mask, parameters: ExtractParameters) -> bool:
    """Return whether a region has enough voxels, along two axes at least, for features to be defined."""
    if np.count_nonzero(mask) < parameters.minimum_voxels:
        return False
    box = bounding_box(mask)
    return sum(b - a > 1 for a, b in zip(box.start, box.stop, strict=True)) >= 2


def shape_features(mask: Mask, grid: sitk.Image) -> dict[str, float]:
    """Return the shape features of one region, named ``original_shape_…``.

    Parameters
    ----------
    mask
        Where the region lies, indexed (z, y, x).
    grid
        A volume on the same grid, for its spacing.
    """
    box = bounding_box(mask)
    image = box.crop(grid)
    return _class_features(FeatureClass.SHAPE, image, _mask_image(mask[box.slices], image), "original", {})


def intensity_features(
    image: sitk.Image, masks: Mapping[Region, Mask], parameters: ExtractParameters
) -> dict[Region, dict[str, float]]:
    """Return first-order and texture features of one volume in every region, ``<volume>_<class>_<feature>``.

    Parameters
    ----------
    image
        Volume, 32-bit floating point.
    masks
        Where each region lies on the volume's grid, indexed (z, y, x); none is empty.
    """
    features: dict[Region, dict[str, float]] = {region: {} for region in masks}
    if not masks:
        return features
    if parameters.normalise:
        image = sitk.Normalize(image)
    boxes = {region: bounding_box(mask) for region, mask in masks.items()}
    outer = _padded(boxes.values(), image, parameters)
    binning = {"binCount": parameters.bin_count} if parameters.bin_width is None else {"binWidth": parameters.bin_width}
    classes = [c for c in parameters.feature_classes if c is not FeatureClass.SHAPE]
    for name, volume in _filtered(outer.crop(image), parameters):
        for region, box in boxes.items():
            crop = box.within(outer).crop(volume)
            mask = _mask_image(masks[region][box.slices], crop)
            for feature_class in classes:
                features[region].update(_class_features(feature_class, crop, mask, name, binning))
    return features


def _padded(boxes: Iterable[Box], image: sitk.Image, parameters: ExtractParameters) -> Box:
    """Return the box around all boxes with the margin that the filters need."""
    size = image.GetSize()[::-1]
    spacing = image.GetSpacing()[::-1]
    found = list(boxes)
    start, stop = [], []
    for axis in range(3):
        first = min(box.start[axis] for box in found)
        last = max(box.stop[axis] for box in found)
        wraps = parameters.wavelet is not None and min(first, size[axis] - last) < _WAVELET_MARGIN
        margin = max(_WAVELET_MARGIN, math.ceil(parameters.padding_mm / spacing[axis]))
        start.append(0 if wraps else max(0, first - margin))
        stop.append(size[axis] if wraps else min(size[axis], last + margin))
    return Box(_triple(start), _triple(stop))


def _filtered(image: sitk.Image, parameters: ExtractParameters) -> Iterator[tuple[str, sitk.Image]]:
    yield "original", image
    # PyRadiomics' own filters: (image, mask, settings) → (filtered image, name, settings) …
    for volume, name, _ in imageoperations.getLoGImage(image, None, sigma=list(parameters.log_sigmas_mm)):
        yield name, volume
    if parameters.wavelet is not None:
        for volume, name, _ in imageoperations.getWaveletImage(image, None, wavelet=parameters.wavelet):
            yield name, volume


def _mask_image(mask: Mask, grid: sitk.Image) -> sitk.Image:
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.CopyInformation(grid)
    return image


def _class_features(
    feature_class: FeatureClass, image: sitk.Image, mask: sitk.Image, volume: str, settings: Mapping[str, object]
) -> dict[str, float]:
    with np.errstate(all="ignore"):
        values = getFeatureClasses()[feature_class](image, mask, label=1, **settings).execute()
    return {f"{volume}_{feature_class}_{name}": float(value) for name, value in values.items()}


@dataclass(frozen=True)
class CaseFeatures:
    """One case's features: finite, or NaN where the region is absent or the feature undefined."""

    parameters: ExtractParameters
    values: dict[str, float]
    absent_regions: tuple[Region, ...]
    undefined: tuple[str, ...]


def compute_features(
    images: Iterator[tuple[str, sitk.Image]], labels: npt.NDArray[np.uint8], parameters: ExtractParameters
) -> CaseFeatures:
    """Return every feature of :func:`feature_names`.

    Parameters
    ----------
    images
        Sequence and its volume, one after the other so that one is in memory at a time.
    labels
        Segmentation with labels 0, 1, 2, 4 on the volumes' grid, indexed (z, y, x).
    """
    regions = {region: region_mask(labels, region) for region in parameters.regions}
    masks = {region: mask for region, mask in regions.items() if is_measurable(mask, parameters)}
    absent = tuple(region for region in parameters.regions if region not in masks)
    found: dict[str, float] = {}
    shape_wanted = FeatureClass.SHAPE in parameters.feature_classes
    for sequence, image in images:
        if shape_wanted:
            for region, mask in masks.items():
                found.update({f"mask_{region}_{name}": v for name, v in shape_features(mask, image).items()})
            shape_wanted = False
        for region, features in intensity_features(image, masks, parameters).items():
            found.update({f"{sequence}_{region}_{name}": value for name, value in features.items()})
    values = {name: found.get(name, math.nan) for name in feature_names(parameters)}
    values = {name: value if math.isfinite(value) else math.nan for name, value in values.items()}
    gone = {str(region) for region in absent}
    undefined = tuple(n for n, v in values.items() if math.isnan(v) and n.split("_")[1] not in gone)
    return CaseFeatures(parameters, values, absent, undefined)


def extract_case(storage: Storage, case: CaseRef, parameters: ExtractParameters) -> ExtractResult:
    """Write a case's row of features, unless the same inputs and parameters already gave it.

    Raises
    ------
    MissingSequence, NotFound
        Where a prepared volume or the segmentation is missing.
    UnreadableFile, InvalidVolume, SpaceMismatch
        Where a volume is damaged, not finite, or off the segmentation's grid.
    InvalidMask
        Where the segmentation is empty or holds an unknown label.
    """
    keys = CaseKeys(case)
    require_sequences(storage, keys, step=STEP, prepared=True)
    if not storage.exists(keys.segmentation):
        raise NotFound(
            "the case has no segmentation",
            case=str(case),
            step=STEP,
            field="segmentation",
            got=keys.segmentation,
            remedy="run 'gliaflow segment' first",
        )

    def compute() -> list[str]:
        grid = read_volume(storage, keys.segmentation)
        labels = _read_labels(grid, keys.segmentation)

        def volumes() -> Iterator[tuple[str, sitk.Image]]:
            for sequence in parameters.sequences:
                key = keys.preprocessed_image(sequence)
                image = read_volume(storage, key)
                require_same_grid(grid, image, name=keys.segmentation, reference_name=key)
                yield sequence, image

        write_row(storage, keys.features, compute_features(volumes(), labels, parameters))
        return [keys.features]

    manifest, cached = run_step(
        storage,
        keys.manifest(STEP),
        step=STEP,
        step_version=STEP_VERSION,
        case=str(case),
        inputs=[*map(keys.preprocessed_image, parameters.sequences), keys.segmentation],
        parameters=parameters.model_dump(mode="json"),
        packages=PACKAGES,
        compute=compute,
    )
    row = read_row(storage, keys.features)
    return ExtractResult(
        case=case,
        cached=cached,
        features=len(row.values),
        absent_regions=row.absent_regions,
        undefined=row.undefined,
        key=keys.features,
        seconds=manifest.seconds,
    )


def _read_labels(image: sitk.Image, name: str) -> npt.NDArray[np.uint8]:
    values = sitk.GetArrayViewFromImage(image)
    whole = values.astype(np.int32)
    if not np.array_equal(values, whole):
        raise InvalidMask(
            "the segmentation holds values between labels",
            field=name,
            expected="whole numbers",
            got="fractions",
            remedy="resample masks with nearest-neighbour or label interpolation",
        )
    labels = normalise_labels(whole)
    if not labels.any():
        raise InvalidMask(
            "the segmentation is empty",
            field=name,
            expected="at least one tumour voxel",
            got="label 0 only",
            remedy="segment the case again, or leave it out",
        )
    return labels


def write_row(storage: Storage, key: str, features: CaseFeatures) -> None:
    """Write one case's features as a Parquet file of one row; the same features give the same bytes."""
    facts = {
        "parameters": features.parameters.model_dump_json(),
        "absent_regions": json.dumps(features.absent_regions),
        "undefined": json.dumps(features.undefined),
    }
    fields = [pa.field(name, pa.float64()) for name in sorted(features.values)]
    columns = [pa.array([features.values[field.name]], pa.float64()) for field in fields]
    table = pa.Table.from_arrays(columns, schema=pa.schema(fields, metadata=facts))
    with storage.publish(key) as path:
        pq.write_table(table, path, use_dictionary=False, write_statistics=False)


def read_row(storage: Storage, key: str) -> CaseFeatures:
    """Return one case's features."""
    with storage.local(key) as path, pq.ParquetFile(path) as file:
        table = file.read()
    facts = table.schema.metadata
    return CaseFeatures(
        ExtractParameters.model_validate_json(facts[b"parameters"]),
        table.to_pylist()[0],
        tuple(Region(name) for name in json.loads(facts[b"absent_regions"])),
        tuple(json.loads(facts[b"undefined"])),
    )
