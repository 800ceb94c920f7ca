"""Clinical tables of the BraTS challenges 2017 to 2021: names across years, grade group, age and survival.

Tables are known by their columns, whatever the files are called. A *name mapping* has ``BraTS_<year>_subject_ID``
columns, ``TCGA_TCIA_subject_ID`` and ``Grade`` (HGG, LGG); a *survival table* has one year's identifiers
(``Brats17ID``, ``BraTS19ID``, ``Brats20ID``), ``Age``, survival in days or ``ALIVE (361 days later)``, and the extent
of resection.

One row is one patient. Where no mapping names a 2020 case, it is the patient of another year with the same age (to
0.001 years) and the same days, if exactly one patient of each side has that pair; other cases stay patients of their
own and are counted. A patient whom one table calls alive is censored, also where a later table writes the bare number.
HGG is no grade: the challenges hold WHO 4, and among the oldest cases also WHO 3, under that name.

The cohort serves by itself, and as ``--participants`` of ``gliaflow import nifti``: images match by the name of any
year.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.datasets.checks import check_release
from pipelines.datasets.clinical import hashes, join_clinical, participants_of
from pipelines.datasets.codings import coded, follow_up_of_days, numbers, text
from pipelines.datasets.release import Release
from pipelines.datasets.source_tables import (
    as_published,
    index_by,
    read_header,
    read_text_table,
    require_columns,
    tables_in,
    unrecognised,
)
from services.shared.contracts import case_label
from services.shared.errors import DuplicateId, InvalidTable, NotFound

NAME = "brats"
STEP = f"import {NAME}"
LICENCE = (
    "BraTS terms of use (research). Cite Menze et al., IEEE TMI 2015;34:1993, Bakas et al., Sci Data 2017;4:170117, "
    "and Bakas et al., arXiv:1811.02629."
)
_MAPPED = re.compile(r"BraTS[ _]?(20\d\d)(?:[ _]subject)?[ _]ID", re.I)
_SURVIVAL_ID = re.compile(r"BraTS[ _]?(?:20)?(\d\d)[ _]?(?:subject[ _]?)?ID", re.I)
_DAYS = ("Survival", "Survival_days")
_RESECTION = ("ResectionStatus", "Extent_of_Resection")
_TCGA = "TCGA_TCIA_subject_ID"
_COLUMNS = ("Age", "Grade", _TCGA, _DAYS[0], _DAYS[1], *_RESECTION)
_NEEDED_TABLE = re.compile(r"survival|name_?mapping", re.I)
MEANINGS = {
    "grade_group": "HGG or LGG, as the challenge calls it",
    "resection": "GTR gross total, STR subtotal resection",
    "tcga_id": "Barcode of the TCGA patient that the case comes from",
    **{f"brats_{year}_id": f"Name of the case in BraTS {year}" for year in range(2017, 2022)},
}


def read_release(source: Path, *, participants: Path | None = None) -> Release:
    """Return the patients of the challenges' tables.

    Parameters
    ----------
    source
        One table, or a folder with name mappings and survival tables of one year or several.
    participants
        TCGA's clinical release: markers, grade and survival of the cases that are TCGA's.

    Raises
    ------
    NotFound
        Where there is no table of either kind.
    InvalidTable, DuplicateId, UnreadableFile
        Where a table is malformed or has other columns than its name promises, a case stands twice, or two tables name
        a case differently.
    """
    paths = tables_in(source) if source.is_dir() else [source]
    headers = {path: _header(path) for path in paths}
    of_survival = [path for path, header in headers.items() if _survival_id(header) and "Age" in header]
    survivals = {path: read_text_table(path, step=STEP, columns=_COLUMNS) for path in of_survival}
    mappings = {
        path: read_text_table(path, step=STEP, columns=_COLUMNS)
        for path, header in headers.items()
        if path not in survivals and any(map(_MAPPED.fullmatch, map(str, header)))
    }
    others = unrecognised(set(paths) - {*mappings, *survivals}, telling=_NEEDED_TABLE, step=STEP)
    if not mappings and not survivals:
        raise NotFound(
            "there is no table of the challenges",
            step=STEP,
            field="source",
            expected="columns BraTS_2019_subject_ID …, or BraTS19ID, Age and Survival",
            got=", ".join(path.name for path in paths) or source.name,
        )
    named = read_name_mappings(mappings)
    survival = _all_years([read_survival(path, table) for path, table in survivals.items()])
    names, counted = link_names(named, survival)
    frame = _patients(named, survival, names)
    release = Release(
        name=NAME,
        participants=participants_of(frame),
        meanings={column: meaning for column, meaning in MEANINGS.items() if column in frame},
        counted={**counted, **others, "patients of TCGA": int(frame["tcga_id"].notna().sum())},
        sources=hashes([*mappings, *survivals]),
        licence=LICENCE,
    )
    release = check_release(_join_tcga(release, participants))
    followed = {
        "patients with follow-up": int(release.participants["os_months"].notna().sum()),
        "patients alive at last follow-up": int((release.participants["event"] == 0).sum()),
    }
    return dataclasses.replace(release, counted={**release.counted, **followed})


def _header(path: Path) -> pd.DataFrame:
    """A table's columns without its rows."""
    header = pd.DataFrame(columns=read_header(path, step=STEP))
    return as_published(header, _COLUMNS, file=path.name, step=STEP)


def read_name_mappings(tables: dict[Path, pd.DataFrame]) -> pd.DataFrame:
    """Return one row a patient: ``brats_<year>_id`` columns, ``grade_group``, ``tcga_id``; None where not named."""
    frames = []
    for path, table in tables.items():
        columns = {
            f"brats_{found[1]}_id": text(table[name]) for name in map(str, table) if (found := _MAPPED.fullmatch(name))
        }
        frame = pd.DataFrame(columns)
        frame["tcga_id"] = text(table[_TCGA]) if _TCGA in table else None
        frame["grade_group"] = (
            coded(table["Grade"], {"hgg": "HGG", "lgg": "LGG"}, field=f"{path.name}: Grade", step=STEP)
            if "Grade" in table
            else None
        )
        if frame[list(columns)].isna().all(axis=1).any():
            raise InvalidTable(
                "a row has no identifier", step=STEP, field=path.name, expected="the case's name in some year"
            )
        for column in columns:
            repeated = frame[column][frame[column].notna() & frame[column].duplicated()]
            if len(repeated):
                raise DuplicateId(
                    "a case stands twice", case=str(repeated.iloc[0]), step=STEP, field=f"{path.name}: {column}"
                )
        frames.append(frame)
    if not frames:
        return pd.DataFrame(columns=["tcga_id", "grade_group"], dtype=object)
    merged = frames[0]
    for frame in frames[1:]:
        keys = [column for column in map(str, frame) if column in merged and column.startswith("brats_")]
        if not keys:
            raise InvalidTable("two name mappings share no year", step=STEP, field=" and ".join(p.name for p in tables))
        key = keys[-1]
        both = merged.merge(frame, on=key, how="outer", suffixes=("", "_other"))
        for column in [name.removesuffix("_other") for name in map(str, both) if name.endswith("_other")]:
            apart = both[column].notna() & both[f"{column}_other"].notna() & (both[column] != both[f"{column}_other"])
            if apart.any():
                raise InvalidTable(
                    "two name mappings disagree", case=str(both[key][apart].iloc[0]), step=STEP, field=column
                )
            both[column] = both[column].fillna(both.pop(f"{column}_other"))
        merged = both
    return merged.reset_index(drop=True)


def read_survival(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Return a survival table by case: ``year``, ``age_years``, ``os_months``, ``event``, ``resection``."""
    column, year = _survival_id(table) or ("", 0)
    table = index_by(table, column, file=path.name, step=STEP)
    days = next((name for name in _DAYS if name in table), _DAYS[0])
    require_columns(table, ("Age", days), file=path.name, step=STEP)
    resection = next((name for name in _RESECTION if name in table), None)
    frame = follow_up_of_days(table[days], step=STEP, field=f"{path.name}: {days}")
    begun = frame["os_months"].isna() | (frame["os_months"] > 0)
    return pd.DataFrame(
        {
            "year": year,
            "age_years": numbers(table["Age"], step=STEP, field=f"{path.name}: Age"),
            "os_months": frame["os_months"].where(begun),
            "event": frame["event"].where(begun),
            "resection": coded(
                table[resection], {"gtr": "GTR", "str": "STR", "biopsy": "biopsy"}, field=str(resection), step=STEP
            )
            if resection
            else None,
        },
        index=table.index,
    )


def _all_years(tables: list[pd.DataFrame]) -> pd.DataFrame:
    if not tables:
        return pd.DataFrame(columns=["year", "age_years", "os_months", "event", "resection"])
    survival = pd.concat(tables)
    repeated = survival.index[survival.index.duplicated()]
    if len(repeated):
        raise DuplicateId("a case stands in two survival tables", case=str(repeated[0]), step=STEP, field="source")
    return survival


def link_names(named: pd.DataFrame, survival: pd.DataFrame) -> tuple[dict[str, int], dict[str, int]]:
    """Return the patient's number by name of the case, and counts of how cases were brought together.

    Parameters
    ----------
    named
        As :func:`read_name_mappings` returns it: row n is patient n.
    survival
        As :func:`read_survival` returns it, of every year.
    """
    names = {
        str(name): number
        for column in _years(named)
        for number, name in zip(named.index, named[column], strict=True)
        if name is not None and pd.notna(name)
    }
    following = len(named)
    alone, found = "cases of a survival table alone", "2020 cases found by age and survival"
    doubtful = "2020 cases with the age of another case and other survival, kept apart"
    counted = {alone: 0, found: 0, doubtful: 0}
    unnamed: list[str] = []
    for name in survival.index:
        if name not in names and survival.at[name, "year"] == 2020:
            unnamed.append(name)
        elif name not in names:
            names[name], following = following, following + 1
            counted[alone] += 1
    known = survival[survival.index.isin(list(names))]
    partners: dict[tuple[float, float], set[int]] = {}
    for name, pair in _pairs(known):
        partners.setdefault(pair, set()).add(names[name])
    pairs = dict(_pairs(survival.loc[unnamed]))
    shared = Counter(pairs.values())
    # Ages come with three decimals for most cases: nearly as telling as a name. Whole years are not.
    ages = {age for age, _ in partners if age % 1}
    for name in unnamed:
        own = pairs.get(name)
        alike = partners.get(own, set()) if own and shared[own] == 1 else set()
        if len(alike) == 1:
            names[name] = next(iter(alike))
            counted[found] += 1
        else:
            names[name], following = following, following + 1
            counted[alone] += 1
            counted[doubtful] += own is not None and own[0] in ages
    return names, counted


def _pairs(survival: pd.DataFrame) -> Iterable[tuple[str, tuple[float, float]]]:
    """Age to 0.001 years and follow-up to 0.001 months of each case that has both."""
    for name, age, months in zip(survival.index, survival["age_years"], survival["os_months"], strict=True):
        if np.isfinite(age) and np.isfinite(months):
            yield str(name), (round(age, 3), round(months, 3))


def _patients(named: pd.DataFrame, survival: pd.DataFrame, names: dict[str, int]) -> pd.DataFrame:
    """One row a patient, indexed by the newest name."""
    frame = named.reindex(range(max(names.values(), default=-1) + 1)).astype(object)
    for column in ("age_years", "os_months", "event", "resection"):
        frame[column] = None
    for name, row in survival.sort_values("year", kind="stable").iterrows():
        number, column = names[str(name)], f"brats_{row['year']}_id"
        if column not in frame:
            frame[column] = None
        frame.at[number, column] = str(name)
        alive_before = frame.at[number, "event"] == 0 and row["event"] == 1
        for value in ("age_years", "os_months", "event", "resection"):
            if pd.notna(row[value]) and not (alive_before and value in ("os_months", "event")):
                frame.at[number, value] = row[value]
    frame = frame.where(frame.notna(), None)
    years = _years(frame)
    newest = frame[years[::-1]].bfill(axis=1).iloc[:, 0]
    return frame.set_index(pd.Index(newest, name=None))[
        ["age_years", "os_months", "event", "grade_group", "resection", "tcga_id", *years]
    ]


def _years(frame: pd.DataFrame) -> list[str]:
    return sorted(column for column in map(str, frame) if re.fullmatch(r"brats_20\d\d_id", column))


def _survival_id(table: pd.DataFrame) -> tuple[str, int] | None:
    found = [(name, int(f"20{m[1]}")) for name in map(str, table) if (m := _SURVIVAL_ID.fullmatch(name))]
    return found[0] if len(found) == 1 else None


def _join_tcga(release: Release, participants: Path | None) -> Release:
    """Join TCGA's table by barcode; age and follow-up stay the challenge's where it has them."""
    if participants is None:
        return release
    own = release.participants.set_index("participant_id", drop=False)
    barcodes = own["tcga_id"].map(lambda name: f"sub-{case_label(name)}", na_action="ignore")
    keyed = own.assign(participant_id=barcodes.where(barcodes.notna(), own["participant_id"]))
    values = ["age_years", "os_months", "event"]
    joined = join_clinical(
        dataclasses.replace(release, participants=keyed.drop(columns=values).reset_index(drop=True)), participants
    )
    frame = joined.participants.set_index("participant_id").reindex(columns=[*joined.participants.columns[1:]])
    frame = frame.loc[keyed["participant_id"]].set_index(own.index)
    for group in (["age_years"], ["os_months", "event"]):
        has = own[group].notna().all(axis=1)
        for column in group:
            frame[column] = own[column].where(has, frame.get(column))
    if "follow_up_source" in frame:
        frame["follow_up_source"] = frame["follow_up_source"].mask(own["os_months"].notna(), "BraTS")
    return dataclasses.replace(joined, participants=frame.reset_index())
