import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.datasets.upenn_gbm import read_release, select_segmentation
from services.shared.errors import DuplicateId, IdMismatch, InvalidTable, NotFound

HEADER = (
    "ID,Gender,Age_at_scan_years,Survival_from_surgery_days_UPDATED,Survival_Status,Survival_Censor,IDH1,MGMT,KPS,"
    "GTR_over90percent,Time_since_baseline_preop,PsP_TP_score"
)
ROWS = {
    "dead": "UPENN-GBM-00001_11,F,52.5,487,Deceased,Not Available,Wildtype,Methylated,80,Y,0,NA",
    "alive": "UPENN-GBM-00002_11,M,61,Not Available,Alive,974,Mutated,Indeterminate,Not Available,N,0,NA",
    "uncertain": "UPENN-GBM-00003_11,M,40,Not Available,Deceased - uncertain date of death,100,NOS/NEC,Unmethylated,"
    "90,Not Applicable,0,NA",
    "unfollowed": "UPENN-GBM-00004_11,M,40,Not Available,Alive,Not Available,Wildtype,Not Available,90,Y,0,NA",
    "recurrence": "UPENN-GBM-00001_21,F,53,100,Deceased,Not Available,Wildtype,Methylated,80,Not Applicable,300,5",
    "late": "UPENN-GBM-00005_21,F,53,100,Deceased,Not Available,Wildtype,Methylated,80,Not Applicable,300,5",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_clinical(tmp_path, *ROWS.values())
    write_features(tmp_path / "captk_automaticsegm" / "DTI_FA_ET.csv.gz", {"00001_11": "1", "00002_11": "-nan"})
    write_features(tmp_path / "captk_automaticsegm" / "T1_ED.csv", {"00001_11": "3", "00003_11": "inf"})
    write_features(tmp_path / "captk_segm" / "DTI_FA_ET.csv.gz", {"00001_11": "9"})
    write_features(tmp_path / "captk_segm" / "T1_ED.csv.gz", {"00001_11": "8"})
    return tmp_path


def write_clinical(folder: Path, *rows: str) -> None:
    (folder / "UPENN-GBM_clinical_info_v2.1.csv").write_text("\n".join((HEADER, *rows)) + "\n")


def write_features(path: Path, values: dict[str, str]) -> None:
    path.parent.mkdir(exist_ok=True)
    name = path.name.split(".")[0] + "_Intensity_Mean"
    text = f"SubjectID,{name}\n" + "".join(f"UPENN-GBM-{scan},{value}\n" for scan, value in values.items())
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def test_patients_before_surgery_with_survival_from_surgery(folder):
    release = read_release(folder)
    frame = release.participants.set_index("source_id")
    assert frame.index.tolist() == [f"UPENN-GBM-0000{n}_11" for n in (1, 2, 3, 4)]
    np.testing.assert_allclose(frame["os_months"], [16, 32, 100 / 30.4375, np.nan])
    assert frame["event"].tolist() == [1, 0, 0, pd.NA]
    assert frame["idh"].tolist() == ["WT", "Mutant", None, "WT"]
    assert frame["mgmt"].tolist() == ["Methylated", None, "Unmethylated", None]
    assert frame["sex"].tolist() == ["F", "M", "M", "M"]
    assert frame["gtr_over_90_percent"].tolist() == ["Y", "N", None, "Y"]
    assert set(frame["grade"]) == {4}
    assert release.dropped == {
        "UPENN-GBM-00001_21": "scan at recurrence",
        "UPENN-GBM-00005_21": "scan at recurrence, and no scan before surgery",
    }
    assert release.counted["deaths of uncertain date censored"] == 1
    assert release.counted["patients without follow-up"] == 1
    assert release.counted["patients without features"] == 1
    assert release.counted["infinite entries taken as missing"] == 1


def test_features_are_those_of_the_automatic_segmentation_unless_asked(folder):
    automatic = read_release(folder)
    values = automatic.matrices["features"]
    assert values.columns.tolist() == ["DTI_FA_ET_Intensity_Mean", "T1_ED_Intensity_Mean"]
    assert values.loc["UPENNGBM0000111"].tolist() == [1, 3]
    assert values.loc["UPENNGBM0000211"].isna().all()
    assert automatic.participants["corrected_segmentation"].tolist() == [1, 0, 0, 0]
    corrected = read_release(folder, segmentation="corrected_where_present")
    assert corrected.matrices["features"].loc["UPENNGBM0000111"].tolist() == [9, 8]
    assert corrected.participants["segmentation"].tolist()[:3] == ["corrected", "automatic", "automatic"]


def test_publishers_flat_names_are_known(folder):
    for path in sorted(folder.glob("captk_*/*")):
        flat = folder / "radiomic_features_CaPTk" / f"Radiomic_Features_CaPTk_{path.parent.name[6:]}_{path.name}"
        flat.parent.mkdir(exist_ok=True)
        path.rename(flat)
    assert read_release(folder).matrices["features"].loc["UPENNGBM0000111"].tolist() == [1, 3]


def test_select_segmentation_takes_whole_rows():
    automatic = pd.DataFrame({"x": [1.0, 2.0], "y": [3.0, 4.0]}, index=["a", "b"])
    corrected = pd.DataFrame({"x": [9.0], "y": [np.nan]}, index=["b"])
    features, used = select_segmentation(automatic, corrected, choice="corrected_where_present")
    assert features.loc["b"].isna().tolist() == [False, True]
    assert used.to_dict() == {"a": "automatic", "b": "corrected"}


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("Deceased,", "Gone,", InvalidTable, "Survival_Status"),
        (",F,", ",female-ish,", InvalidTable, "Gender"),
        ("Wildtype", "Wild", InvalidTable, "IDH1"),
        ("52.5", "fifty", InvalidTable, "Age_at_scan_years"),
        ("UPENN-GBM-00002_11", "UPENN-GBM-00001_11", DuplicateId, "UPENN-GBM-00001_11"),
        ("UPENN-GBM-00002_11", "patient 2", InvalidTable, "patient 2"),
    ],
)
def test_unknown_codes_and_repeated_ids_are_refused(folder, old, new, error, message):
    write_clinical(folder, *(row.replace(old, new) for row in ROWS.values()))
    with pytest.raises(error, match=message):
        read_release(folder)


def test_a_header_in_capitals_is_read_and_one_without_follow_up_is_refused(folder):
    before = read_release(folder)
    path = folder / "UPENN-GBM_clinical_info_v2.1.csv"
    text = path.read_text()
    path.write_text(text.replace(HEADER, HEADER.upper().replace("_STATUS", " STATUS")))
    assert read_release(folder).participants.equals(before.participants)
    for name in ("Survival_Status", "Survival_Censor", "Survival_from_surgery_days_UPDATED"):
        path.write_text(text.replace(name, "Other"))
        with pytest.raises(InvalidTable, match=f"not there.*{name}"):
            read_release(folder)
    path.write_text(text.replace("KPS", "MGMT"))
    with pytest.raises(InvalidTable, match=r"twice.*MGMT"):
        read_release(folder)


def test_features_that_do_not_fit_are_refused(folder):
    write_features(folder / "captk_automaticsegm" / "T1_ED.csv", {"00001_11": "3", "00002_11": "much"})
    with pytest.raises(InvalidTable, match="much"):
        read_release(folder)
    write_features(folder / "captk_automaticsegm" / "T1_ED.csv", {"00009_11": "3"})
    assert read_release(folder).dropped["UPENN-GBM-00009_11"] == "features without a clinical row"
    write_clinical(folder, ROWS["dead"].replace("00001", "00077"))
    with pytest.raises(IdMismatch, match="UPENN-GBM-00077_11"):
        read_release(folder)
    for path in folder.glob("captk_automaticsegm/*"):
        path.unlink()
    with pytest.raises(NotFound, match="automatic"):
        read_release(folder)


@pytest.mark.real
def test_published_release(real_data):
    folder = real_data / "upenn_gbm"
    if not folder.is_dir():
        pytest.skip("no folder upenn_gbm")
    release = read_release(folder)
    frame = release.participants
    assert len(frame) == 437
    assert frame["event"].value_counts().to_dict() == {1: 417, 0: 20}
    assert release.matrices["features"].shape == (437, 3456)
    assert Counter(release.dropped.values()) == {
        "scan at recurrence": 28,
        "scan at recurrence, and no scan before surgery": 15,
    }
    features = release.matrices["features"]
    means = {m: features[f"DTI_{m}_ET_Intensity_Mean"] for m in ("AD", "RD", "TR")}
    ratio = (means["TR"] / ((means["AD"] + 2 * means["RD"]) / 3)).dropna()
    assert ratio.between(0.9, 1.1).all()
