from __future__ import annotations

import pytest

from pipelines.modelling.feature_names import kind_of, region_of, sequence_of

COLUMNS = [
    ("T1c_ET_original_glcm_Imc1", "radiomics", "tumour", "T1c"),
    ("FLAIR_ED_wavelet-LHL_glszm_SmallAreaEmphasis", "radiomics", "edema", "FLAIR"),
    ("T1w_TC_original_firstorder_Mean", "radiomics", "tumour", "T1w"),
    ("T2w_WT_log-sigma-1-0-mm-3D_glcm_MCC", "radiomics", "overall", "T2w"),
    ("mask_ED_original_shape_Flatness", "radiomics", "edema", None),
    ("T1c_ET_deep_7", "deep", "tumour", "T1c"),
    ("FLAIR_ED_deep_999", "deep", "edema", "FLAIR"),
    ("grade_WT_deep_logit", "deep", "overall", None),
    ("diffusionsurvival_TC_deep_risk", "deep", "tumour", None),
    ("T1c_ET_deep_mean", "radiomics", "tumour", "T1c"),
    ("TEXTURE_GLCM_ET_T1Gd_Energy", "radiomics", "tumour", "T1c"),
    ("HISTO_NET_T1_Bin4", "radiomics", "tumour", "T1w"),
    ("TEXTURE_GLOBAL_ED_FLAIR_Kurtosis", "radiomics", "edema", "FLAIR"),
    ("INTENSITY_STD_ET_T2", "radiomics", "tumour", "T2w"),
    ("VOLUME_ED", "radiomics", "edema", None),
    ("VOLUME_ET_OVER_ED", "radiomics", "overall", None),
    ("VOLUME_ED_over_TC", "radiomics", "overall", None),
    ("VOLUME_ET_OVER_NET", "radiomics", "tumour", None),
    ("SPATIAL_Frontal", "radiomics", "overall", None),
    ("TGM_Cog_X_4", "radiomics", "overall", None),
    ("core__t1ce__original_glcm_Imc1", "radiomics", "tumour", "T1c"),
    ("edema__flair__wavelet-LLH_glcm_MCC", "radiomics", "edema", "FLAIR"),
    ("whole__t2__original_shape_Flatness", "radiomics", "overall", "T2w"),
    ("core__t1__wavelet-HLL_glrlm_RunEntropy", "radiomics", "tumour", "T1w"),
    ("T1-Gd_ET_Mean", "radiomics", "tumour", "T1c"),
]


@pytest.mark.parametrize(("column", "kind", "region", "sequence"), COLUMNS)
def test_a_name_tells_kind_region_and_sequence(column, kind, region, sequence):
    assert (kind_of(column), region_of(column), sequence_of(column)) == (kind, region, sequence)
