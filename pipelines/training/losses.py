"""What imaging networks minimise: cross-entropy, Cox's partial likelihood, and both at once."""

from __future__ import annotations

import torch
from torch.nn import functional

MISSING = -1
"""Class of a patient whose class is not known."""


def cox_loss(risk: torch.Tensor, months: torch.Tensor, event: torch.Tensor) -> torch.Tensor:
    """Return the negative log partial likelihood of Cox's model, a death, with Efron's correction for tied deaths.

    Risk sets are those of the patients given: a batch stands for the cohort, so batches should be large.

    Parameters
    ----------
    risk, months, event
        Log risks, follow-up, and 1 for a death; shape (patients,). Without a death the loss is 0.
    """
    died = event > 0
    if not died.any():
        return risk.sum() * 0.0
    largest = risk.detach().max()
    hazard = (risk - largest).exp()
    times, place = torch.unique(months, return_inverse=True)
    zeros = hazard.new_zeros(len(times))
    leaving = zeros.index_add(0, place, hazard)
    at_risk = leaving.flip(0).cumsum(0).flip(0)
    tied = zeros.index_add(0, place, hazard * died)
    deaths = torch.bincount(place[died], minlength=len(times))
    # The k-th of d tied deaths finds k/d of the tied hazard gone.
    group = torch.repeat_interleave(torch.arange(len(times), device=risk.device), deaths)
    first = deaths.cumsum(0) - deaths
    earlier = torch.arange(len(group), device=risk.device) - first[group]
    share = earlier / deaths[group]
    total = (at_risk[group] - share * tied[group]).clamp_min(torch.finfo(hazard.dtype).tiny).log().sum()
    return (total - (risk[died] - largest).sum()) / died.sum()


def class_loss(logits: torch.Tensor, classes: torch.Tensor, *, log_prior: torch.Tensor | None = None) -> torch.Tensor:
    """Return the mean cross-entropy over the patients whose class is known; 0 where none is.

    Parameters
    ----------
    logits, classes
        Shape (patients, 2) and (patients,); :data:`MISSING` where a class is not known.
    log_prior
        Logarithm of the classes' shares, shape (2,): the logits are adjusted by it while they are learnt, so that
        without it they weigh both classes alike (Menon et al., ICLR 2021).
    """
    if not (classes != MISSING).any():
        return logits.sum() * 0.0
    adjusted = logits if log_prior is None else logits + log_prior
    return functional.cross_entropy(adjusted, classes, ignore_index=MISSING)


def months_loss(risk: torch.Tensor, wanted: torch.Tensor, event: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error of the risk against standardised shortness of life, over patients who died.

    The regression of Front Oncol 2022, 969907; censored patients, whose survival is not known, take no part.

    Parameters
    ----------
    wanted
        ``(mean - log1p(months)) / sd``, statistics of the training patients who died; shape (patients,).
    """
    died = event > 0
    if not died.any():
        return risk.sum() * 0.0
    return functional.mse_loss(risk[died], wanted[died])
