"""What many cases cost: time and money from one case's figures and stated prices."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prices:
    """What a site pays, in one currency."""

    core_hour: float
    gpu_hour: float
    gb_month: float
    thousand_writes: float
    thousand_reads: float


@dataclass(frozen=True)
class Figures:
    """What one case takes: core seconds, GPU seconds, GB that stay, requests."""

    name: str
    core_s: float
    gpu_s: float
    gb: float
    writes: float
    reads: float


@dataclass(frozen=True)
class Cost:
    """What so many cases take of one step, and what is paid for it."""

    name: str
    core_hours: float
    gpu_hours: float
    gb: float
    requests: float
    once: float
    a_month: float


def cost_of(figures: Figures, prices: Prices, cases: int) -> Cost:
    """Return the cost of one step for so many cases; requests are paid with the computing."""
    core_hours, gpu_hours = (cases * seconds / 3600 for seconds in (figures.core_s, figures.gpu_s))
    requests = cases * (figures.writes * prices.thousand_writes + figures.reads * prices.thousand_reads) / 1000
    return Cost(
        name=figures.name,
        core_hours=core_hours,
        gpu_hours=gpu_hours,
        gb=cases * figures.gb,
        requests=cases * (figures.writes + figures.reads),
        once=core_hours * prices.core_hour + gpu_hours * prices.gpu_hour + requests,
        a_month=cases * figures.gb * prices.gb_month,
    )


def days(core_hours: float, cores: int, efficiency: float) -> float:
    """Return how long so many core hours take on so many cores of which a share is used."""
    return core_hours / (cores * efficiency) / 24
