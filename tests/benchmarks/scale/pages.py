"""The lines of the two pages, from the measured figures."""

from __future__ import annotations

from collections.abc import Sequence

from tests.benchmarks.scale.cost import Cost, Figures, Prices, cost_of, days

NAMES = {"process": "processes", "dask": "Dask"}
COHORTS = (10_000, 1_000_000)
COLUMNS = ("core_hours", "gpu_hours", "gb", "requests", "once", "a_month")


def overhead_ms(run: dict) -> tuple[float, float]:
    """Return what the fan-out adds to a light case, ms: of wall time, and of processor time (Prefect's server too)."""
    return (
        1000 * (run["wall"] / run["cases"] - run["direct"]),
        1000 * (run["own"] + run["server"]) / run["cases"],
    )


def fan_out_lines(figures: dict) -> list[str]:
    """Return the section of docs/benchmarks.md."""
    lines = [
        (
            f"{figures['processors']} processors. The aims: at most 50 ms a case, flat memory, 1.8 times as fast with "
            "two workers as with one."
        ),
        "",
        (
            "Light cases (a 12³ volume each, one at a time): what the fan-out adds to the service's own time, "
            "Prefect's server and its start and end included; memory of the process that runs the flow."
        ),
        "",
        (
            "| runner | cases | service, ms a case | fan-out adds, ms a case | of the processor, ms a case "
            "| memory before, MB | grown by, MB | of it in the second half, MB |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for runner, runs in figures["light"].items():
        for run in runs:
            wall, cpu = overhead_ms(run)
            lines.append(
                f"| {NAMES[runner]} | {run['cases']:,} | {1000 * run['direct']:.1f} | {wall:.1f} | {cpu:.1f} "
                f"| {run['memory']:.0f} | {run['grown']:.1f} | {run['grown_late']:.1f} |"
            )
    lines += [
        "",
        (
            f"Real work: {next(iter(figures['real'].values()))['one']['cases']} phantom cases prepared at 3 mm, "
            "workers warm. What other processes of the machine take of its processors, two workers feel and one does "
            "not. Where one was killed, that was one of two workers, by SIGKILL in the middle of a case."
        ),
        "",
        (
            "| runner | 1 worker, s | 2 workers, s | speed-up | processor, 1 and 2 workers, s "
            "| processors that others took, 1 and 2 workers | one killed, s | lost cases | same images |"
        ),
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for runner, runs in figures["real"].items():
        one, two, killed = runs["one"], runs["two"], runs["killed"]
        same = one["hash"] == two["hash"] == killed["hash"]
        lines.append(
            f"| {NAMES[runner]} | {one['wall']:.1f} | {two['wall']:.1f} | {one['wall'] / two['wall']:.2f}× "
            f"| {one['workers']:.1f}, {two['workers']:.1f} | {one['others']:.2f}, {two['others']:.2f} "
            f"| {killed['wall']:.1f} | {killed['quarantined']} "
            f"| {'yes' if same else 'NO'} |"
        )
    return lines


def step_figures(figures: dict) -> list[Figures]:
    """Return what one case takes, step by step; the fan-out's share is that of the largest light run."""
    stages, on_gpu = figures["stages"], figures["stages"]["gpu"] is not None
    found = [
        Figures(
            name=step["step"],
            core_s=step["cpu"],
            gpu_s=step["wall"] if on_gpu and step["step"] == "segment" else 0.0,
            gb=step["gb"],
            writes=step.get("writes", 0),
            reads=step.get("reads", 0),
        )
        for step in stages["steps"]
    ]
    register = stages["register"]
    found.append(Figures("gather features", register["cpu"], 0.0, 0.0, 0.0, register["reads"]))
    fan_out_s = overhead_ms(figures["light"]["process"][-1])[1] / 1000
    found.append(Figures("fan-out, 3 steps", 3 * fan_out_s, 0.0, 0.0, 0.0, 0.0))
    return found


def cost_lines(figures: dict, prices: Prices, *, cores: Sequence[int], currency: str) -> list[str]:
    """Return the section of docs/scaling.md."""
    steps = step_figures(figures)
    gpu = figures["stages"]["gpu"]
    lines = [
        (
            "Measured on BraTS2021_00495 (4 sequences at 1 mm), one core, storage an object store in memory whose "
            f"requests were counted. {f'Segmented on {gpu}.' if gpu else 'There was no GPU: segmented on the core.'}"
        ),
        "",
        "| step | core, s | GPU, s | MB that stay | PUT, LIST | GET, HEAD |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {step.name} | {step.core_s:.2f} | {step.gpu_s:.2f} | {1000 * step.gb:.2f} | {step.writes:.0f} "
            f"| {step.reads:.0f} |"
            for step in steps
        ),
        "",
        (
            f"Prices taken, {currency}: {prices.core_hour:g} a core hour, {prices.gpu_hour:g} a GPU hour, "
            f"{prices.gb_month:g} a GB and month, {prices.thousand_writes:g} for 1,000 PUT or LIST, "
            f"{prices.thousand_reads:g} for 1,000 GET or HEAD. They are no quotation: give yours."
        ),
    ]
    efficiency = min(1.0, figures["real"]["process"]["one"]["wall"] / figures["real"]["process"]["two"]["wall"] / 2)
    for cases in COHORTS:
        costs = [cost_of(step, prices, cases) for step in steps]
        lines += ["", f"### {cases:,} cases", "", *_table(costs, currency), ""]
        total = sum(cost.core_hours for cost in costs)
        times = ", ".join(f"{_duration(days(total, count, efficiency))} on {count:,} cores" for count in cores)
        lines.append(f"Time, at the measured {efficiency:.0%} of two workers' ideal speed: {times}.")
    memory_gb = figures["stages"]["register"]["mb"] / 1000
    lines += [
        "",
        f"Gathering features takes {1000 * memory_gb:.2f} MB a case in one process: "
        + ", ".join(f"{cases * memory_gb:,.0f} GB for {cases:,} cases" for cases in COHORTS)
        + ".",
    ]
    return lines


def _table(costs: Sequence[Cost], currency: str) -> list[str]:
    rows = [f"| {cost.name} | " + " | ".join(_amount(getattr(cost, name)) for name in COLUMNS) + " |" for cost in costs]
    sums = (sum(getattr(cost, name) for cost in costs) for name in COLUMNS)
    return [
        f"| step | core hours | GPU hours | GB | requests | {currency} once | {currency} a month |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *rows,
        "| **all** | " + " | ".join(map(_amount, sums)) + " |",
    ]


def _duration(days: float) -> str:
    return f"{_amount(days)} days" if days >= 2 else f"{_amount(24 * days)} hours"


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
