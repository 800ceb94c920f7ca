"""Values against PyRadiomics' own extractor on whole volumes, and against IBSI's digital phantom."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from pydantic import ValidationError

from services.feature_store.contracts import ExtractParameters, FeatureClass
from services.feature_store.radiomics import (
    compute_features,
    feature_names,
    intensity_features,
    is_measurable,
    shape_features,
)
from services.shared.cohort import Label, Region, Sequence, region_mask

pytestmark = pytest.mark.filterwarnings("ignore:the load_module")  # raised while PyRadiomics' extractor is imported


def stock_features(image, mask, parameters):
    """PyRadiomics as its manual has it: one call on the whole volume and the whole mask."""
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    types = {"Original": {}}
    if parameters.log_sigmas_mm:
        types["LoG"] = {"sigma": list(parameters.log_sigmas_mm)}
    if parameters.wavelet:
        types["Wavelet"] = {"wavelet": parameters.wavelet}
    binning = {"binWidth": parameters.bin_width} if parameters.bin_width else {"binCount": parameters.bin_count}
    extractor = RadiomicsFeatureExtractor(
        {
            "setting": {**binning, "normalize": parameters.normalise, "additionalInfo": False},
            "imageType": types,
            "featureClass": {str(c): [] for c in parameters.feature_classes},
        }
    )
    whole = sitk.GetImageFromArray(mask.astype(np.uint8))
    whole.CopyInformation(image)
    return {name: float(value) for name, value in extractor.execute(image, whole).items()}


def ours(image, masks, parameters):
    found = {region: shape_features(mask, image) for region, mask in masks.items()}
    for region, features in intensity_features(image, masks, parameters).items():
        found[region].update(features)
    return found


def all_masks(labels):
    return {region: region_mask(labels, region) for region in Region}


@pytest.mark.parametrize(
    "changes",
    [{}, {"bin_width": 0.25}, {"normalise": True}, {"bin_count": 8}],
    ids=["default", "bin width", "normalised", "eight bins"],
)
def test_unfiltered_features_equal_pyradiomics_on_the_whole_volume(synthetic, changes):
    parameters = ExtractParameters(**changes)
    labels = synthetic.labels()
    image = synthetic.image(synthetic.volume(labels))
    found = ours(image, all_masks(labels), parameters)
    for region, mask in all_masks(labels).items():
        expected = stock_features(image, mask, parameters)
        assert set(found[region]) == set(expected)
        for name, value in expected.items():
            assert found[region][name] == pytest.approx(value, rel=1e-12, abs=1e-12), (region, name)


@pytest.mark.parametrize("centre", [(24, 24, 24), (7, 24, 40.5)], ids=["inside", "at two edges"])
def test_wavelet_features_equal_pyradiomics_even_where_the_tumour_touches_the_edge(synthetic, centre):
    parameters = ExtractParameters(
        wavelet="coif1", feature_classes=("firstorder", "glcm"), padding_mm=12.0, regions=("ET", "WT")
    )
    labels = synthetic.labels(48, centre)
    image = synthetic.image(synthetic.volume(labels))
    masks = {region: region_mask(labels, region) for region in parameters.regions}
    found = intensity_features(image, masks, parameters)
    for region, mask in masks.items():
        expected = stock_features(image, mask, parameters)
        assert found[region] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_laplacian_of_gaussian_agrees_with_pyradiomics_as_far_as_documented(synthetic):
    parameters = ExtractParameters(log_sigmas_mm=(1.0, 3.0), feature_classes=("firstorder", "glcm"), padding_mm=20.0)
    labels = synthetic.labels(64, (20, 20, 44), scale=0.8)
    image = synthetic.image(synthetic.volume(labels), 1.0)
    found = intensity_features(image, all_masks(labels), parameters)
    for region, mask in all_masks(labels).items():
        expected = stock_features(image, mask, parameters)
        assert found[region] == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_padding_too_small_for_the_filter_is_refused():
    with pytest.raises(ValidationError, match="at least 6 times"):
        ExtractParameters(log_sigmas_mm=(5.0,), padding_mm=20.0)


# The digital phantom of the Image Biomarker Standardisation Initiative: 5 x 4 x 4 voxels of 2 mm, 74 in the mask
# (Zwanenburg et al., Radiology 2020;295:328; CC BY 4.0), indexed (z, y, x), and its reference values.
PHANTOM = np.array(
    [
        [[1, 4, 4, 1, 1], [1, 4, 6, 1, 1], [4, 1, 6, 4, 1], [4, 4, 6, 4, 1]],
        [[1, 4, 4, 1, 1], [1, 1, 6, 1, 1], [1, 1, 3, 1, 1], [4, 4, 6, 1, 1]],
        [[1, 4, 4, 1, 1], [1, 1, 1, 1, 1], [1, 1, 9, 1, 1], [1, 1, 6, 1, 1]],
        [[1, 4, 4, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 6, 1, 1]],
    ],
    np.float32,
)
PHANTOM_MASK = np.ones(PHANTOM.shape, bool)
for _outside in [(1, 2, 0), (2, 0, 3), (2, 0, 4), (2, 2, 2), (3, 0, 3), (3, 0, 4)]:
    PHANTOM_MASK[_outside] = False

IBSI = {
    "original_shape_VoxelVolume": (592, 4),
    "original_shape_MeshVolume": (556, 4),
    "original_shape_SurfaceArea": (388, 3),
    "original_shape_Sphericity": (0.843, 0.005),
    "original_shape_Maximum3DDiameter": (13.1, 0.1),
    "original_shape_MajorAxisLength": (11.4, 0.1),
    "original_shape_Elongation": (0.816, 0.005),
    "original_shape_Flatness": (0.749, 0.005),
    "original_firstorder_Mean": (2.15, 0.005),
    "original_firstorder_Variance": (3.05, 0.005),
    "original_firstorder_Skewness": (1.08, 0.005),
    "original_firstorder_Kurtosis": (3 - 0.355, 0.0005),  # PyRadiomics does not subtract 3
    "original_firstorder_Energy": (567, 0.5),
    "original_firstorder_90Percentile": (4, 0.5),
    "original_firstorder_MeanAbsoluteDeviation": (1.55, 0.005),
    "original_glcm_MaximumProbability": (0.503, 0.0005),
    "original_glcm_JointAverage": (2.14, 0.005),
    "original_glcm_SumSquares": (3.10, 0.005),
    "original_glcm_JointEntropy": (2.40, 0.005),
    "original_glcm_Contrast": (5.32, 0.005),
    "original_glcm_DifferenceVariance": (3.06, 0.005),
    "original_glcm_Idn": (0.851, 0.0005),
    "original_glcm_Correlation": (0.157, 0.0005),
    "original_glcm_ClusterShade": (16.6, 0.05),
    "original_glcm_Imc1": (-0.157, 0.0005),
    "original_glrlm_ShortRunEmphasis": (0.705, 0.0005),
    "original_glrlm_GrayLevelNonUniformity": (21.8, 0.05),
    "original_glrlm_RunPercentage": (0.680, 0.0005),
    "original_glrlm_RunEntropy": (2.43, 0.005),
    "original_glszm_LargeAreaEmphasis": (550, 0.5),
    "original_glszm_ZonePercentage": (0.0676, 0.00005),
    "original_glszm_ZoneVariance": (331, 0.5),
    "original_gldm_SmallDependenceEmphasis": (0.0450, 0.00005),
    "original_gldm_GrayLevelNonUniformity": (37.9, 0.05),
    "original_gldm_DependenceEntropy": (4.40, 0.005),
    "original_ngtdm_Coarseness": (0.0296, 0.00005),
    "original_ngtdm_Contrast": (0.584, 0.0005),
    "original_ngtdm_Busyness": (6.54, 0.005),
    "original_ngtdm_Complexity": (13.5, 0.05),
    "original_ngtdm_Strength": (0.763, 0.0005),
}


@pytest.fixture(scope="module")
def phantom_features(synthetic):
    image = synthetic.image(PHANTOM, 2.0)
    return ours(image, {Region.WT: PHANTOM_MASK}, ExtractParameters(bin_width=1.0))[Region.WT]


@pytest.mark.parametrize("name", sorted(IBSI))
def test_digital_phantom_has_ibsi_reference_values(phantom_features, name):
    value, tolerance = IBSI[name]
    assert phantom_features[name] == pytest.approx(value, abs=tolerance)


@pytest.mark.real
@pytest.mark.parametrize("case", ["brain1", "breast1"])
def test_pyradiomics_published_baseline(real_data, case):
    folder = real_data / "pyradiomics_baseline"
    if not folder.is_dir():
        pytest.skip(f"no PyRadiomics baseline at {folder}")
    image = sitk.Cast(sitk.ReadImage(str(folder / f"{case}_image.nrrd")), sitk.sitkFloat32)
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{case}_label.nrrd"))) == 1
    found = ours(image, {Region.WT: mask}, ExtractParameters(bin_width=25.0))[Region.WT]
    compared = 0
    for feature_class in FeatureClass:
        baseline = pd.read_csv(folder / "baseline" / f"baseline_{feature_class}.csv", index_col=0)[case]
        for name, value in baseline[baseline.index.str.startswith("original_")].dropna().items():
            # The baseline shifts intensities by 2000 for the energies alone.
            if name.rsplit("_", 1)[1] in {"Energy", "TotalEnergy", "RootMeanSquared"} or name not in found:
                continue
            compared += 1
            # Its shapes come from an older mesh; PyRadiomics' own tests allow 3 %.
            tolerance = 2e-3 if feature_class is FeatureClass.SHAPE else 1e-6
            assert found[name] == pytest.approx(float(value), rel=tolerance), name
    assert compared >= 95


def test_every_case_has_the_same_names_and_an_absent_region_is_missing(synthetic):
    parameters = ExtractParameters(sequences=("T1c",), log_sigmas_mm=(3.0,), wavelet="haar")
    labels = synthetic.labels()
    labels[labels == Label.ENHANCING] = Label.NECROTIC_CORE
    features = compute_features(iter([(Sequence.T1C, synthetic.image(synthetic.volume(labels)))]), labels, parameters)
    assert tuple(features.values) == feature_names(parameters)
    assert features.absent_regions == (Region.ET,)
    assert features.undefined == ()
    for name, value in features.values.items():
        assert math.isnan(value) == ("_ET_" in name), name


def test_names_say_sequence_region_volume_class_and_feature():
    names = feature_names(ExtractParameters(log_sigmas_mm=(3.0,), wavelet="coif1"))
    assert {"T1c_TC_original_glcm_Contrast", "FLAIR_ED_log-sigma-3-0-mm-3D_firstorder_Mean"} <= set(names)
    assert {"T2w_WT_wavelet-LLH_ngtdm_Busyness", "mask_TC_original_shape_Sphericity"} <= set(names)
    assert len(names) == len(set(names)) == 4 * 4 * 93 * 10 + 4 * 14
    assert list(names) == sorted(names)


def test_a_flat_region_gives_no_infinite_value_and_its_undefined_features_are_named(synthetic):
    parameters = ExtractParameters(sequences=("T1c",))
    labels = synthetic.labels()
    image = synthetic.image(np.zeros(labels.shape, np.float32))
    features = compute_features(iter([(Sequence.T1C, image)]), labels, parameters)
    assert all(math.isnan(v) or math.isfinite(v) for v in features.values.values())
    assert features.undefined == tuple(n for n, v in features.values.items() if math.isnan(v))
    assert features.absent_regions == ()


@pytest.mark.parametrize(("voxels", "measurable"), [(9, False), (10, True)])
def test_a_region_counts_from_its_tenth_voxel(voxels, measurable):
    mask = np.zeros((24, 24, 24), bool)
    mask[4, 4, :5] = True
    mask[4, 5, : voxels - 5] = True
    assert is_measurable(mask, ExtractParameters()) is measurable


def test_a_line_of_voxels_is_no_region():
    mask = np.zeros((24, 24, 24), bool)
    mask[4, 4, :] = True
    assert not is_measurable(mask, ExtractParameters())


def test_extraction_is_silent(synthetic, capfd, recwarn):
    labels = synthetic.labels()
    compute_features(
        iter([(Sequence.T1C, synthetic.image(synthetic.volume(labels)))]), labels, ExtractParameters(sequences=["T1c"])
    )
    assert capfd.readouterr() == ("", "")
    assert not list(recwarn)


@pytest.mark.real
@pytest.mark.slow
def test_real_case_equals_pyradiomics(real_data):
    folder = real_data / "mri_brats_cases" / "BraTS2021_00495"
    if not folder.is_dir():
        pytest.skip(f"no BraTS case at {folder}")
    image = sitk.ReadImage(str(folder / "BraTS2021_00495_t1ce.nii.gz"), sitk.sitkFloat32)
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "BraTS2021_00495_seg.nii.gz")))
    parameters = ExtractParameters()
    mask = region_mask(labels, Region.TC)
    found = ours(image, {Region.TC: mask}, parameters)[Region.TC]
    assert found == pytest.approx(stock_features(image, mask, parameters), rel=1e-9)
