"""Times survival analytics and its peers in one run; writes them into docs/benchmarks.md and README.md."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from services.survival_analytics.concordance import concordance
from services.survival_analytics.cox import bootstrap_cox, fit_cox
from services.survival_analytics.kaplan_meier import estimate_survival
from services.survival_analytics.penalised_cox import cross_validate, fit_path
from services.survival_analytics.roc import auc
from services.survival_analytics.time_dependent_roc import time_dependent_auc
from tests.benchmarks.page import BENCHMARKS, README, write_section

COLD = """
import time, numpy as np
start = time.perf_counter()
{code}
print(time.perf_counter() - start)
"""


@dataclass(frozen=True)
class Row:
    task: str
    limit: str
    wall: float
    cpu: float
    peers: tuple[tuple[str, float], ...]
    quoted: str


def best(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return the shortest wall and CPU seconds over repeats."""
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus)


def simulate(n: int, p: int, *, seed: int, effects: int = 10, follow_up: float = 2.0) -> pd.DataFrame:
    """Return n patients with p covariates; ``follow_up`` is the mean time to censoring (0.3: a third have events)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p))
    beta = np.zeros(p)
    beta[:effects] = np.linspace(-0.5, 0.5, min(effects, p))
    event_time = rng.exponential(size=n) * np.exp(-x @ beta)
    limit = rng.exponential(follow_up, size=n)
    frame = pd.DataFrame(x, columns=[f"x{j}" for j in range(p)])
    frame["time"] = np.minimum(event_time, limit) + 1e-9
    frame["event"] = (event_time <= limit).astype(int)
    return frame


def records(frame: pd.DataFrame) -> np.ndarray:
    y = np.empty(len(frame), dtype=[("event", bool), ("time", float)])
    y["event"], y["time"] = frame["event"], frame["time"]
    return y


def time_cox() -> Row:
    from lifelines import CoxPHFitter

    frame = simulate(50_000, 10, seed=1)
    names = [f"x{j}" for j in range(10)]
    ours = best(lambda: fit_cox(frame, "time", event="event", covariates=names), 5)
    lifelines = best(lambda: CoxPHFitter().fit(frame, "time", "event"), 1)[0]
    return Row(
        "Cox, 50,000 × 10, with SE, C and baseline",
        "0.36 s",
        *ours,
        (("lifelines", lifelines),),
        "coxph 0.18 s, statsmodels 9.4 s",
    )


def time_bootstrap() -> Row:
    from lifelines import CoxPHFitter

    frame = simulate(500, 8, seed=2, effects=8)
    names = [f"x{j}" for j in range(8)]
    ours = best(lambda: bootstrap_cox(frame, "time", event="event", covariates=names, replicates=1000), 2)
    rng = np.random.default_rng(0)

    def refit() -> None:
        CoxPHFitter().fit(frame.iloc[rng.integers(0, 500, 500)], "time", "event")

    lifelines = best(refit, 5)[0] * 1000
    return Row("Cox bootstrap, 1,000 refits of 500 × 8", "4 s", *ours, (("lifelines, 5 refits × 200", lifelines),), "")


def time_concordance() -> Row:
    from lifelines.utils import concordance_index
    from sksurv.metrics import concordance_index_censored

    frame = simulate(20_000, 1, seed=3, effects=1)
    t, e, x = (frame[c].to_numpy() for c in ("time", "event", "x0"))
    ours = best(lambda: concordance(t, e, score=x), 7)
    lifelines = best(lambda: concordance_index(t, -x, e), 3)[0]
    sksurv = best(lambda: concordance_index_censored(e == 1, t, x), 1)[0]
    return Row(
        "Concordance with SE, n = 20,000",
        "20 ms",
        *ours,
        (("lifelines (no SE)", lifelines), ("scikit-survival (no SE)", sksurv)),
        "survival::concordance 77 ms",
    )


def delong_naive(y: np.ndarray, x: np.ndarray) -> float:
    cases, controls = x[y == 1], x[y == 0]
    v10 = np.array([np.mean((c > controls) + 0.5 * (c == controls)) for c in cases])
    v01 = np.array([np.mean((cases > c) + 0.5 * (cases == c)) for c in controls])
    return float(v10.var(ddof=1) / cases.size + v01.var(ddof=1) / controls.size)


def time_delong() -> Row:
    rng = np.random.default_rng(4)
    y = rng.integers(0, 2, 30_000)
    x = rng.normal(size=30_000) + y
    ours = best(lambda: auc(y, x), 9)
    naive = best(lambda: delong_naive(y, x), 1)[0]
    return Row("AUC with DeLong limits, n = 30,000", "10 ms", *ours, (("definition in numpy", naive),), "pROC 7 ms")


def time_kaplan_meier() -> Row:
    from lifelines import KaplanMeierFitter
    from sksurv.nonparametric import kaplan_meier_estimator

    frame = simulate(100_000, 1, seed=5, effects=1)
    t, e = frame["time"].to_numpy(), frame["event"].to_numpy()
    ours = best(lambda: estimate_survival(t, e), 5)
    lifelines = best(lambda: KaplanMeierFitter().fit(t, e), 2)[0]
    sksurv = best(lambda: kaplan_meier_estimator(e == 1, t, conf_type="log-log"), 2)[0]
    return Row(
        "Kaplan–Meier with CI, n = 100,000",
        "0.1 s",
        *ours,
        (("lifelines", lifelines), ("scikit-survival", sksurv)),
        "",
    )


def time_path() -> Row:
    from sksurv.linear_model import CoxnetSurvivalAnalysis

    frame = simulate(500, 10_000, seed=6, follow_up=0.3)
    x = frame.drop(columns=["time", "event"]).to_numpy()
    y = records(frame)
    ours = best(lambda: fit_path(x, frame["time"], event=frame["event"]), 2)
    peer = best(lambda: CoxnetSurvivalAnalysis(l1_ratio=1.0, max_iter=100_000).fit(x, y), 1)[0]
    return Row(
        "LASSO-Cox path, 500 × 10,000, 100 penalties, a third with events",
        "1 s",
        *ours,
        (("scikit-survival", peer),),
        "glmnet 1.22 s",
    )


def time_cross_validation() -> Row:
    from sksurv.linear_model import CoxnetSurvivalAnalysis

    frame = simulate(600, 2000, seed=7, follow_up=0.3)
    x = frame.drop(columns=["time", "event"]).to_numpy()
    y = records(frame)
    ours = best(lambda: cross_validate(x, frame["time"], event=frame["event"], folds=10, workers=2), 1)
    peer = best(lambda: CoxnetSurvivalAnalysis(l1_ratio=1.0, max_iter=100_000).fit(x, y), 1)[0] * 11
    return Row(
        "LASSO-Cox, 10-fold CV, 600 × 2,000, 2 threads, a third with events",
        "10 s",
        *ours,
        (("scikit-survival, one path × 11", peer),),
        "cv.glmnet 57 s of CPU",
    )


def time_time_dependent_auc() -> Row:
    from sksurv.metrics import cumulative_dynamic_auc

    frame = simulate(5_000, 1, seed=8, effects=1)
    t, e, x = (frame[c].to_numpy() for c in ("time", "event", "x0"))
    times = [0.3, 0.7, 1.2]
    y = records(frame)
    ours = best(lambda: time_dependent_auc(t, e, score=x, times=times), 5)
    peer = best(lambda: cumulative_dynamic_auc(y, y, x, times), 2)[0]
    return Row(
        "Time-dependent AUC with SE, n = 5,000, 3 times",
        "",
        *ours,
        (("scikit-survival (no SE)", peer),),
        "",
    )


TASKS = {
    "cox": time_cox,
    "bootstrap": time_bootstrap,
    "concordance": time_concordance,
    "delong": time_delong,
    "kaplan-meier": time_kaplan_meier,
    "path": time_path,
    "cross-validation": time_cross_validation,
    "tdroc": time_time_dependent_auc,
}


def warm_up() -> None:
    frame = simulate(60, 20, seed=0)
    x = frame.drop(columns=["time", "event"]).to_numpy()
    fit_path(x, frame["time"], event=frame["event"], count=5)
    concordance(frame["time"], frame["event"], score=frame["x0"])
    time_dependent_auc(frame["time"], frame["event"], score=frame["x0"], times=0.5)


def compile_seconds() -> dict[str, float]:
    """Return the first call of compiled functions with an empty cache, in a new process."""
    calls = {
        "concordance": "from services.survival_analytics.concordance import concordance\n"
        "concordance([1., 2., 3.], [1, 1, 0], score=[3., 1., 2.])",
        "LASSO-Cox": "from services.survival_analytics.penalised_cox import fit_path\n"
        "fit_path(np.random.default_rng(0).normal(size=(30, 4)), np.arange(1., 31.), event=np.ones(30))",
    }
    found = {}
    for name, code in calls.items():
        with tempfile.TemporaryDirectory() as cache:
            for label in (f"{name}, empty cache", f"{name}, filled cache"):
                out = subprocess.run(
                    [sys.executable, "-c", COLD.format(code=code)],
                    env={**os.environ, "NUMBA_CACHE_DIR": cache},
                    capture_output=True,
                    text=True,
                    check=True,
                )
                found[label] = float(out.stdout)
    return found


def peak_megabytes(call: Callable[[], object]) -> float:
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def memory_lines() -> list[str]:
    lines = []
    calls: dict[str, Callable[[pd.DataFrame], object]] = {
        "Cox, 5 covariates": lambda f: fit_cox(f, "time", event="event", covariates=[f"x{j}" for j in range(5)]),
        "Concordance": lambda f: concordance(f["time"], f["event"], score=f["x0"]),
        "AUC with DeLong limits": lambda f: auc(f["event"], f["x0"]),
        "Time-dependent AUC": lambda f: time_dependent_auc(f["time"], f["event"], score=f["x0"], times=0.5),
        "Kaplan–Meier": lambda f: estimate_survival(f["time"], f["event"]),
    }
    small, large = simulate(20_000, 5, seed=0, effects=5), simulate(200_000, 5, seed=0, effects=5)
    for name, call in calls.items():
        a, b = peak_megabytes(lambda c=call: c(small)), peak_megabytes(lambda c=call: c(large))
        lines.append(f"| {name} | {a:.1f} | {b:.1f} | {b / a:.1f} |")
    return lines


def seconds(value: float) -> str:
    return f"{1000 * value:.1f} ms" if value < 0.1 else f"{value:.2f} s"


def table(rows: list[Row]) -> list[str]:
    lines = [
        "| task | goal | wall | CPU | peers, wall (how many times ours) | quoted |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        peers = "; ".join(f"{name} {seconds(t)} ({t / row.wall:.1f}×)" for name, t in row.peers)
        lines.append(
            f"| {row.task} | {row.limit} | {seconds(row.wall)} | {seconds(row.cpu)} | {peers} | {row.quoted} |"
        )
    return lines


def page(rows: list[Row]) -> list[str]:
    versions = f"Python {platform.python_version()}, numpy {np.__version__}"
    lines = [
        "Shortest of several runs; compiled code was compiled before. R was not run: its figures are quoted from",
        "earlier measurements on other data of the same shape. CPU counts all threads; on a shared machine it says",
        "more than wall time.",
        "",
        f"{versions}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the end.",
        "",
        *table(rows),
    ]
    lines += ["", "Compilation: first call in a new process, imports included.", ""]
    lines += ["| call | seconds |", "| --- | --- |"]
    lines += [f"| {name} | {value:.1f} |" for name, value in compile_seconds().items()]
    lines += [
        "",
        "Memory: peak of what Python and numpy allocate, MB. Ten times the patients, ten times the memory.",
        "",
    ]
    return [*lines, "| call | n = 20,000 | n = 200,000 | ratio |", "| --- | --- | --- | --- |", *memory_lines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", choices=[[], *TASKS], help="only these; nothing is written then")
    chosen = parser.parse_args().tasks
    warnings.filterwarnings("ignore")
    warm_up()
    rows = []
    for name in chosen or TASKS:
        row = TASKS[name]()
        rows.append(row)
        print(
            f"{row.task}: {seconds(row.wall)} wall, {seconds(row.cpu)} CPU; "
            + "; ".join(f"{peer} {seconds(t)}" for peer, t in row.peers),
            flush=True,
        )
    if not chosen:
        write_section(BENCHMARKS, "survival", page(rows))
        write_section(README, "speed", table(rows))


if __name__ == "__main__":
    main()
