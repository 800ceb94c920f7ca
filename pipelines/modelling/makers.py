"""Who made the deep features that a model learnt from: another network means other things by the same column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pipelines.modelling.feature_names import kind_of
from services.feature_store.studies import maker_column
from services.shared.errors import InvalidValue

PLATFORM = "extracted by gliaflow"
_AND = ", network "


def maker_columns(columns: Iterable[str]) -> tuple[str, ...]:
    """Return the columns of the feature store that say who made the deep ones among some columns.

    >>> maker_columns(["T1c_TC_original_glcm_Contrast", "grade_WT_deep_1", "grade_WT_deep_2"])
    ('grade_WT_deep_maker',)
    """
    deep = (column.split("_deep_")[0] for column in columns if kind_of(column) == "deep")
    return tuple(dict.fromkeys(map(maker_column, deep)))


def state_makers(makers: Mapping[str, str], columns: Iterable[str]) -> str | None:
    """Return what a model's description says of who made its features; None where none is a network's.

    Parameters
    ----------
    makers
        Who made them, by column of :func:`maker_columns`.
    columns
        The features that the model reads.

    >>> state_makers({"grade_WT_deep_maker": "models/imaging/grade 0a1b"}, ["grade_WT_deep_1"])
    'extracted by gliaflow, network models/imaging/grade 0a1b'
    """
    names = maker_columns(columns)
    if not names:
        return None
    return _AND.join((PLATFORM, *dict.fromkeys(makers.get(name, "of no stated name") for name in names)))


def check_makers(found: str | None, learnt: str | None, *, case: str, model: str) -> None:
    """Check that deep features are of the networks that a model learnt from.

    Parameters
    ----------
    found, learnt
        Who made the features at hand, and those that the model learnt from; see :func:`state_makers`.
    case
        The cohort or case whose features they are.

    Raises
    ------
    InvalidValue
        Where other networks made them, or the model does not state which made those that it learnt from.
    """
    if found is not None and not _parts(found) <= _parts(learnt or ""):
        raise InvalidValue(
            "the deep features are of another network than the model learnt from",
            case=case,
            step=model,
            field="deep features",
            expected=learnt or "a model that states its networks: run its study again",
            got=found,
            remedy="name that network in the section extract_deep and run 'gliaflow extract --deep' again; "
            "where it was trained again, run the study again",
        )


def _parts(stated: str) -> set[str]:
    """Return what a statement names: a model may read the features of only some networks that its study had."""
    return set(stated.split(_AND))
