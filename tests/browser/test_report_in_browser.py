"""The report in a real browser: it is laid out without an error, within the window, wide and narrow, light and dark."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from pipelines.modelling.nomograms import with_nomograms
from pipelines.modelling.outputs import write_study
from pipelines.modelling.signature import CoxLasso
from pipelines.modelling.study import StudyResult
from pipelines.modelling.survival_data import survival_data
from pipelines.modelling.survival_study import (
    SurvivalPlan,
    SurvivalStudyParameters,
    SurvivalStudyResult,
    run_survival_study,
)
from pipelines.reporting.report import write_report
from pipelines.studies import atrx
from services.shared.storage import Storage
from services.survival_analytics.simulated_patients import simulate_patients

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no browser: apt-get install chromium")


@pytest.fixture(scope="module", params=["classification", "survival"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = Storage(tmp_path_factory.mktemp("workspace"))
    write_study(storage, "table", classification() if request.param == "classification" else survival())
    return Path(write_report(storage, "table").url)


def classification() -> StudyResult:
    rng = np.random.default_rng(0)
    outcome = np.arange(30) % 2
    ids = pd.Index([f"case{i:02d}" for i in range(30)], name="case_id")
    columns = [f"T1c_TC_original_glszm_SmallAreaHighGrayLevelEmphasis{i}" for i in range(12)]
    features = pd.DataFrame(rng.normal(size=(30, 12)) + outcome[:, None], index=ids, columns=columns)
    labels = pd.Series([atrx.CLASSES[y] for y in outcome], index=ids)
    parameters = atrx.Parameters(folds=3, inner_folds=3, permutations=2, lasso_folds=3, trees=10)
    return atrx.run(features, labels, parameters=parameters)


def survival() -> SurvivalStudyResult:
    people = simulate_patients(80, seed=1)
    ids = pd.Index([f"case{i:02d}" for i in range(80)], name="case_id")
    names = [f"DTI_AD_ET_Histogram_Bins-16_RobustMeanAbsoluteDeviation{i}" for i in range(10)]
    values = np.random.default_rng(0).normal(size=(80, 10)) + people[["signature"]].to_numpy()
    follow = pd.DataFrame({"os_months": people["months"].to_numpy(), "event": people["died"].to_numpy()}, index=ids)
    follow["age_years"] = people["age"].to_numpy()
    data = survival_data(pd.DataFrame(values, index=ids, columns=names), follow)
    parameters = SurvivalStudyParameters(folds=3, permutations=2, bootstraps=10)
    plan = SurvivalPlan("diffusion", "1", "Research.", CoxLasso(), parameters, "z-score")
    result = run_survival_study(plan, data, {"elsewhere": data}, seed=1)
    return with_nomograms(result, data, {"elsewhere": data}, clinical_columns=("age_years",), seed=1)


def browse(page: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-sync")
    offline = ("--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND")
    command = [BROWSER, *quiet, *offline, f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr"]
    done = subprocess.run(
        [*command, *arguments, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in done.stderr
    return done


@pytest.mark.parametrize("width", [400, 1200])
def test_page_fits_the_window(report: Path, tmp_path: Path, width: int) -> None:
    # The page itself allows no script: a copy measures what the original looks like.
    probe = (
        "<script>addEventListener('load', () => document.body.dataset.size = "
        "[innerWidth, document.documentElement.scrollWidth, document.querySelectorAll('svg text').length])"
        "</script></body>"
    )
    content = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", report.read_text("utf-8"))
    copy = tmp_path / "copy.html"
    copy.write_text(content.replace("</body>", probe), "utf-8")
    dom = browse(copy, tmp_path, f"--window-size={width},900", "--dump-dom").stdout
    size = re.search(r'data-size="(\d+),(\d+),(\d+)"', dom)
    assert size is not None
    window, page, texts = map(int, size.groups())
    assert page <= window
    assert texts > 50


def test_page_is_light_and_dark_and_refuses_nothing_of_its_own(report: Path, tmp_path: Path) -> None:
    corners = []
    for name, extra in (("light", ()), ("dark", ("--force-dark-mode",))):
        picture = tmp_path / f"{name}.png"
        done = browse(report, tmp_path / name, "--window-size=1200,1500", f"--screenshot={picture}", *extra)
        assert "Content Security Policy" not in done.stderr
        pixels = imread(picture)[..., :3]
        assert pixels.std() > 0.05
        corners.append(float(pixels[:8, :8].mean()))
    assert corners[0] > 0.9
    assert corners[1] < 0.2
