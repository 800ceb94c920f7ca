from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser

import numpy as np
import pytest

from pipelines.modelling.study import StudyResult
from pipelines.reporting.report import report_key, summary_table, write_report
from pipelines.reporting.tables import format_estimate
from services.shared.cohort import CaseKeys
from services.shared.contracts import CaseRef
from services.shared.errors import NotFound, UnreadableFile
from services.shared.storage import Storage

COHORT = "small"
FillCohort = Callable[..., None]
PageOf = Callable[[Storage], str]


class Page(HTMLParser):
    """What a page holds: tags with attributes, identifiers, text, and whether tags are balanced."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.text += "|" if tag in ("td", "th") else ""

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data

    def attribute(self, name: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(name)) is not None]


def test_page_is_well_formed_and_needs_nothing_else(full_page: str) -> None:
    page = Page(full_page)
    assert page.open == []
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object"}
    assert all(value.startswith("data:image/png;base64,") for value in page.attribute("src"))
    targets = page.attribute("href")
    assert all(value.startswith(("#", "data:image/png;base64,")) for value in targets)
    targets = [value for value in targets if value.startswith("#")]
    identifiers = page.attribute("id")
    assert len(identifiers) == len(set(identifiers))
    assert {value[1:] for value in targets} <= set(identifiers)
    assert "@import" not in full_page
    assert "http" not in re.sub(r'http-equiv="Content', "", full_page).replace("data:image/png;base64", "")[:20000]


def test_every_figure_tells_what_it_shows(full_page: str) -> None:
    page = Page(full_page)
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    slices = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(drawings) >= 8  # flow, Dice, volumes, five of the study, and what the study adds
    assert len(slices) == 6
    assert all(len(attributes.get("aria-label") or "") > 20 for attributes in drawings)
    assert all(len(attributes.get("alt") or "") > 20 for attributes in slices)


def test_same_input_gives_same_bytes(storage: Storage, fill_cohort: FillCohort) -> None:
    fill_cohort(storage)
    write_report(storage, COHORT)
    first = storage.read_bytes(report_key(COHORT))
    write_report(storage, COHORT)
    assert storage.read_bytes(report_key(COHORT)) == first


def test_figures_are_those_of_the_study(full_page: str, study_result: StudyResult) -> None:
    text = Page(full_page).text
    metrics = study_result.metrics
    for name in ("auc", "sensitivity", "specificity", "accuracy", "permuted_auc", "paper_order_optimistic_auc"):
        low, high = metrics[f"{name}_low"], metrics[f"{name}_high"]
        assert f"{metrics[name]:.3f}\n[{low:.3f}–{high:.3f}]" in text
    assert f"{metrics['brier']:.3f}" in text
    assert study_result.card.training.features_sha256 in text
    right = (study_result.predictions["outcome"] == "WT") & (study_result.predictions["predicted"] == "WT")
    assert re.search(rf"is WT\|{int(right.sum())}\|", text)
    for feature in study_result.features["feature"]:
        assert feature in text


def test_summary_is_that_of_the_metrics(storage: Storage, fill_cohort: FillCohort, study_result: StudyResult) -> None:
    fill_cohort(storage, images=False)
    (row,) = summary_table(storage, COHORT)
    metrics = study_result.metrics
    assert (row.study, row.patients, row.positives) == ("atrx", 30, 15)
    assert (row.auc.value, row.auc.low, row.auc.high) == (metrics["auc"], metrics["auc_low"], metrics["auc_high"])
    assert row.permuted_auc is not None
    assert row.permuted_auc.value == metrics["permuted_auc"]
    assert row.published is not None
    assert "Quant Imaging Med Surg" in row.published.source
    assert format_estimate(row.auc).startswith(f"{metrics['auc']:.3f} [")


@pytest.mark.parametrize(("null", "said"), [(False, "effects that were planted"), (True, "null phantom")])
def test_simulated_cohort_says_so_first(
    storage: Storage, fill_cohort: FillCohort, page_of: PageOf, null: bool, said: str
) -> None:
    fill_cohort(storage, null=null)
    text = Page(page_of(storage)).text
    assert text.index("Simulated cohort, no patients") < text.index("Results at a glance")
    assert said in text
    assert "cannot be compared" in text


def test_flow_and_table_name_who_left(full_page: str) -> None:
    page = Page(full_page)
    assert "Flow of patients: In the clinical table 10; For the studies 9; With features 8; study atrx 30" in (
        page.attribute("aria-label")
    )
    assert "1 × train the segmentation network" in page.text
    assert "sub-case08" in page.text
    assert "expected finite values; got NaN" in page.text
    assert "export again" in page.text
    assert "<script>" not in full_page


def test_gallery_shows_worst_middle_and_best(full_page: str) -> None:
    text = Page(full_page).text
    for label, why in (("case00", "worst Dice, 0.50"), ("case03", "median Dice, 0.65"), ("case07", "best Dice, 0.85")):
        assert re.search(rf"sub-{label} · (among|about) the {why}", text)
    assert "sub-case02 ·" not in text


def test_cohort_without_images_is_reported(storage: Storage, fill_cohort: FillCohort, page_of: PageOf) -> None:
    fill_cohort(storage, images=False)
    text = Page(page_of(storage)).text
    assert "this report rests on a table of features" in text
    assert "Simulated" not in text
    assert "In the table of features" in text


def test_cohort_without_study_is_reported(storage: Storage, fill_cohort: FillCohort, page_of: PageOf) -> None:
    fill_cohort(storage, study=False)
    assert "No study has run on this cohort yet" in Page(page_of(storage)).text


def test_unknown_study_or_cohort_is_named(storage: Storage, fill_cohort: FillCohort) -> None:
    fill_cohort(storage)
    with pytest.raises(NotFound, match=r"got: grading.*gliaflow study grading") as missing:
        write_report(storage, COHORT, ["grading"])
    assert missing.value.expected == "atrx"
    with pytest.raises(NotFound, match="no such cohort"):
        write_report(storage, "elsewhere")
    assert not storage.exists(report_key("elsewhere"))


def test_damaged_file_is_named_and_an_earlier_report_stays(storage: Storage, fill_cohort: FillCohort) -> None:
    fill_cohort(storage)
    write_report(storage, COHORT)
    before = storage.read_bytes(report_key(COHORT))
    key = CaseKeys(CaseRef(cohort=COHORT, id="case02")).quality
    storage.write_text(key, '{"status": "done", "space": 3}')
    with pytest.raises(UnreadableFile, match=r"case02/qc.json.*run the step"):
        write_report(storage, COHORT)
    assert storage.read_bytes(report_key(COHORT)) == before


def test_quarantined_case_has_no_quality(storage: Storage, fill_cohort: FillCohort, page_of: PageOf) -> None:
    fill_cohort(storage)
    storage.write_text(
        CaseKeys(CaseRef(cohort=COHORT, id="case08")).quality, '{"status": "quarantined", "problem": {"title": "x"}}'
    )
    assert "Quality of 8 cases, 1 flagged" in Page(page_of(storage)).text


def test_case_without_tumour_is_shown(storage: Storage, fill_cohort: FillCohort, page_of: PageOf) -> None:
    import SimpleITK as sitk

    from services.shared.volume import read_volume, write_volume

    fill_cohort(storage)
    keys = CaseKeys(CaseRef(cohort=COHORT, id="case00"))
    empty = sitk.GetImageFromArray(np.zeros((12, 16, 16), np.uint8))
    empty.CopyInformation(read_volume(storage, keys.brain_mask))
    write_volume(storage, keys.segmentation, empty)
    assert "no tumour found" in Page(page_of(storage)).text
