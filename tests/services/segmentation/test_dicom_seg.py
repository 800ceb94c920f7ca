from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("highdicom", reason="the extra 'dicom' is not installed")

from highdicom.seg import segread
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from services.segmentation.contracts import Finding, SegmentParameters, SegmentRequest
from services.segmentation.dicom_seg import read_series, series_grid, write_dicom_seg
from services.segmentation.segment import finding_key, segment_case
from services.shared.cohort import CaseKeys, Region, Sequence
from services.shared.errors import InvalidVolume, NotFound, SpaceMismatch
from services.shared.settings import settings
from services.shared.storage import Storage
from services.shared.volume import read_volume, write_volume

STEP_MM = 3.0


def transform() -> sitk.AffineTransform:
    """From points of the atlas to points of the scanner: a turn about two axes and a move."""
    turn = sitk.Euler3DTransform((0, 0, 0), 0.1, -0.05, 0.2, (12.0, -7.0, 25.0))
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(turn.GetMatrix())
    affine.SetTranslation(turn.GetTranslation())
    return affine


def make_series(reference: sitk.Image, *, uid: str = "1.2.3.4", patient: str = "EXAMPLE") -> list[Dataset]:
    """Return oblique slices of 2.5 × 2 mm, 3 mm apart, over the extent of an atlas volume as the scanner saw it."""
    along_x, along_y = np.array([0.99, 0.1, 0.1]), np.array([-0.05, 0.97, 0.2])
    along_x /= np.linalg.norm(along_x)
    along_y -= along_x * (along_y @ along_x)
    along_y /= np.linalg.norm(along_y)
    normal = np.cross(along_x, along_y)
    size = [n / 2 for n in reference.GetSize()]
    centre = np.array(transform().TransformPoint(reference.TransformContinuousIndexToPhysicalPoint(size)))
    rows, columns, count = 72, 80, 52
    corner = centre - along_x * 2.0 * columns / 2 - along_y * 2.5 * rows / 2 - normal * STEP_MM * count / 2
    slices: list[Dataset] = []
    for index in range(count):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = f"{uid}.{index + 1}"
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = MRImageStorage, f"{uid}.{index + 1}"
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = "1.2.3", uid, "1.2.9"
        data.PatientID, data.PatientName, data.PatientBirthDate, data.PatientSex = patient, patient, "", "O"
        data.StudyID, data.StudyDate, data.StudyTime, data.AccessionNumber = "1", "20200101", "120000", ""
        data.ReferringPhysicianName, data.Modality, data.SeriesNumber = "", "MR", 5
        data.InstanceNumber = index + 1
        data.Rows, data.Columns, data.PixelSpacing = rows, columns, [2.5, 2.0]
        data.ImageOrientationPatient = [*along_x, *along_y]
        data.ImagePositionPatient = list(corner + index * STEP_MM * normal)
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.PixelData = bytes(rows * columns * 2)
        slices.append(data)
    return [slices[index] for index in np.random.default_rng(0).permutation(count)]


@pytest.fixture
def segmented(storage: Storage, make_case) -> CaseKeys:
    """A case with the expert's segmentation and the way back to its T1c."""
    keys = make_case()
    segment_case(storage, SegmentRequest(case=keys.case, parameters=SegmentParameters(source="expert")))
    with storage.publish(keys.transform(Sequence.T1C, keys.space)) as path:
        sitk.WriteTransform(transform(), str(path))
    return keys


def labels_of(storage: Storage, keys: CaseKeys) -> sitk.Image:
    return read_volume(storage, keys.segmentation, pixel_type=sitk.sitkUInt8)


def points_of(storage: Storage, key: str, segment: int) -> np.ndarray:
    """Return the patient positions (n × 3, mm) of a segment's voxels, from what stands in the file alone."""
    with storage.local(key) as path:
        read = segread(path)
    points = []
    pixels = np.atleast_3d(read.pixel_array).reshape(-1, read.Rows, read.Columns)
    shared = read.SharedFunctionalGroupsSequence[0]
    x, y = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    row_mm, column_mm = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    for frame, plane in zip(read.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        if frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber == segment:
            position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
            rows, columns = np.nonzero(plane)
            points.append(position + columns[:, None] * column_mm * x + rows[:, None] * row_mm * y)
    return np.concatenate(points)


@pytest.mark.parametrize(("segment", "label"), [(1, 1), (2, 2), (3, 4)])
def test_each_segment_lies_where_the_label_lay_in_the_patient(storage, segmented, segment: int, label: int) -> None:
    labels = labels_of(storage, segmented)
    key = write_dicom_seg(storage, segmented, make_series(labels))
    places = np.argwhere(sitk.GetArrayFromImage(labels) == label)[:, ::-1]
    there = np.array([transform().TransformPoint(labels.TransformIndexToPhysicalPoint(p.tolist())) for p in places])
    found = points_of(storage, key, segment)
    np.testing.assert_allclose(found.mean(axis=0), there.mean(axis=0), atol=0.5)
    assert len(found) * 2.5 * 2.0 * STEP_MM == pytest.approx(len(there) * 6.0**3, rel=0.2)


def test_a_marked_voxel_lands_at_its_place_in_the_patient(storage, segmented) -> None:
    labels = labels_of(storage, segmented)
    marked = labels * 0
    index = (15, 9, 13)
    marked[index] = 4
    write_volume(storage, segmented.segmentation, marked)
    key = write_dicom_seg(storage, segmented, make_series(labels))
    place = np.array(transform().TransformPoint(marked.TransformIndexToPhysicalPoint(index)))
    found = points_of(storage, key, 3)
    assert np.linalg.norm(found - place, axis=1).max() < 6.0 * 0.5 * np.sqrt(3)
    np.testing.assert_allclose(found.mean(axis=0), place, atol=0.6)


def test_the_object_references_its_source_and_is_the_same_again(storage, segmented) -> None:
    series = make_series(labels_of(storage, segmented))
    key = write_dicom_seg(storage, segmented, series)
    with storage.local(key) as path:
        read = segread(path)
    assert (read.StudyInstanceUID, read.PatientID, read.FrameOfReferenceUID) == ("1.2.3", "EXAMPLE", "1.2.9")
    referenced = read.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == "1.2.3.4"
    assert {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence} == {
        data.SOPInstanceUID for data in series
    }
    described = [read.get_segment_description(number) for number in (1, 2, 3)]
    assert [d.segment_label for d in described] == ["Necrotic core", "Oedema", "Enhancing tumour"]
    assert [d.segmented_property_type.value for d in described] == ["6574001", "79654002", "C113842"]
    assert {d.algorithm_type.value for d in described} == {"MANUAL"}
    write_dicom_seg(storage, segmented, series[::-1])
    with storage.local(key) as path:
        again = segread(path)
    assert (again.SOPInstanceUID, again.SeriesInstanceUID) == (read.SOPInstanceUID, read.SeriesInstanceUID)
    np.testing.assert_array_equal(again.pixel_array, read.pixel_array)


def test_no_tumour_and_a_network_are_written_as_such(storage, segmented) -> None:
    labels = labels_of(storage, segmented)
    write_volume(storage, segmented.segmentation, labels * 0)
    none = dict.fromkeys(Region, 0.0)
    finding = Finding(source="network", tumour_found=False, volumes_ml=none, model_sha256="a" * 64)
    storage.write_text(finding_key(segmented), finding.model_dump_json())
    key = write_dicom_seg(storage, segmented, make_series(labels))
    with storage.local(key) as path:
        read = segread(path)
    assert not read.pixel_array.any()
    assert read.get_segment_description(1).algorithm_type.value == "AUTOMATIC"


def _without_position(series: list[Dataset]) -> list[Dataset]:
    del series[3].ImagePositionPatient
    return series


def _gap(series: list[Dataset]) -> list[Dataset]:
    return [data for data in series if data.InstanceNumber != 20]


def _twice(series: list[Dataset]) -> list[Dataset]:
    return [*series, *series]


def _two_series(series: list[Dataset]) -> list[Dataset]:
    series[5].SeriesInstanceUID = "1.2.3.5"
    return series


def _elsewhere(series: list[Dataset]) -> list[Dataset]:
    for data in series:
        data.ImagePositionPatient = [float(value) + 500 for value in data.ImagePositionPatient]
    return series


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (_without_position, InvalidVolume, "without ImagePositionPatient"),
        (_gap, InvalidVolume, "equal steps"),
        (_twice, InvalidVolume, "equal steps"),
        (_two_series, SpaceMismatch, "SeriesInstanceUID"),
        (_elsewhere, SpaceMismatch, "outside the series"),
        (lambda series: series[:1], InvalidVolume, "at least 2"),
    ],
)
def test_a_series_that_does_not_fit_is_refused_and_nothing_is_written(storage, segmented, spoil, kind, words) -> None:
    series = spoil(make_series(labels_of(storage, segmented)))
    with pytest.raises(kind, match=words) as caught:
        write_dicom_seg(storage, segmented, series)
    assert (caught.value.case, caught.value.step) == ("demo/sub-a", "dicom-seg")
    assert not [name for name in storage.files(segmented.segmentation_folder) if name.endswith(".dcm")]


def test_the_imported_volume_must_lie_where_the_series_lies(storage, segmented) -> None:
    labels = labels_of(storage, segmented)
    write_volume(storage, segmented.raw_image(Sequence.T1C), sitk.Cast(labels, sitk.sitkFloat32))
    with pytest.raises(SpaceMismatch, match="imported volume"):
        write_dicom_seg(storage, segmented, make_series(labels))


def test_a_case_without_segmentation_or_transform_says_what_to_run(storage, make_case) -> None:
    keys = make_case()
    with pytest.raises(NotFound, match="gliaflow segment"):
        write_dicom_seg(storage, keys, [])


def test_a_folder_is_read_as_one_series(storage, segmented, tmp_path: Path) -> None:
    series = make_series(labels_of(storage, segmented))
    folder = tmp_path / "series"
    folder.mkdir()
    for number, data in enumerate(series):
        data.save_as(folder / f"{number:03d}", enforce_file_format=True)
    (folder / "notes.txt").write_text("not DICOM")
    read = read_series(folder)
    assert [data.InstanceNumber for data in read] == list(range(1, 53))
    assert series_grid(read)[1].GetSpacing() == pytest.approx((2.0, 2.5, STEP_MM))
    assert write_dicom_seg(storage, segmented, read).endswith("_space-T1c_dseg.dcm")
    with pytest.raises(NotFound, match="no DICOM"):
        read_series(tmp_path / "demo")


@pytest.mark.real
@pytest.mark.parametrize("name", ["MR1", "MR2", "MR700"])
def test_real_slices_that_are_no_stack_are_refused_with_a_reason(name: str) -> None:
    folder = settings().real_data / "dicom_mr" / "98892003" / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}: set GLIAFLOW_REAL_DATA")
    with pytest.raises((InvalidVolume, SpaceMismatch)) as caught:
        read_series(folder)
    assert caught.value.expected
