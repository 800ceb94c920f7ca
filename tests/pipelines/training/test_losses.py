"""Losses against what they are defined as, and the partial likelihood against the platform's own Cox model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from pipelines.training.losses import MISSING, class_loss, cox_loss, months_loss
from services.survival_analytics.cox_fit import fit_cox


@pytest.mark.parametrize("ties", [False, True])
def test_the_smallest_partial_likelihood_loss_is_coxs_estimate(ties):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(80, 2))
    months = rng.exponential(np.exp(-x @ [0.8, -0.5])) * 20
    months = np.ceil(months) if ties else months + 0.01
    event = (rng.random(80) < 0.7).astype(int)
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "months": months, "event": event})
    wanted = fit_cox(frame, "months", event="event", covariates=["a", "b"]).coefficients
    beta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([beta], max_iter=100, tolerance_grad=1e-10, line_search_fn="strong_wolfe")
    inputs = [torch.from_numpy(part) for part in (x, months, event)]

    def step():
        optimiser.zero_grad()
        loss = cox_loss(inputs[0] @ beta, *inputs[1:])
        loss.backward()
        return loss

    optimiser.step(step)
    assert beta.detach().numpy() == pytest.approx(np.asarray(wanted), abs=1e-4)


def test_partial_likelihood_by_hand():
    risk = torch.tensor([0.5, -1.0, 0.2])
    months, event = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 0, 1])
    r = np.exp(risk.numpy())
    assert float(cox_loss(risk, months, event)) == pytest.approx(-np.log(r[0] / r.sum()) / 2, abs=1e-6)
    tied = torch.tensor([1.0, 1.0, 3.0]), torch.tensor([1, 1, 0])
    efron = np.log(r.sum()) + np.log(r.sum() - (r[0] + r[1]) / 2) - 0.5 + 1.0
    assert float(cox_loss(risk, *tied)) == pytest.approx(efron / 2, abs=1e-6)
    shifted = cox_loss(risk + 500, *tied)
    assert float(shifted) == pytest.approx(efron / 2, abs=1e-4)


def test_without_a_death_or_a_class_nothing_is_learnt():
    risk = torch.randn(4, requires_grad=True)
    nobody = torch.zeros(4, dtype=torch.int64)
    for loss in (cox_loss(risk, torch.ones(4), nobody), months_loss(risk, torch.ones(4), nobody)):
        (gradient,) = torch.autograd.grad(loss, risk)
        assert (float(loss), gradient.abs().sum()) == (0.0, 0.0)
    logits = torch.randn(4, 2, requires_grad=True)
    assert float(class_loss(logits, torch.full((4,), MISSING))) == 0.0


def test_a_patient_without_a_class_takes_no_part():
    logits = torch.randn(3, 2)
    some = class_loss(logits, torch.tensor([0, 1, MISSING]))
    assert float(some) == pytest.approx(float(class_loss(logits[:2], torch.tensor([0, 1]))))


def test_adjusted_logits_learn_the_balanced_class():
    """With nothing to tell patients apart, the adjusted optimum says neither class, the plain one the common class."""
    classes = torch.tensor([0] * 9 + [1])
    prior = torch.log(torch.tensor([0.9, 0.1]))
    for log_prior, wanted in ((None, 0.1), (prior, 0.5)):
        logit = torch.zeros(2, requires_grad=True)
        optimiser = torch.optim.LBFGS([logit], max_iter=50)

        def step(logit=logit, optimiser=optimiser, log_prior=log_prior):
            optimiser.zero_grad()
            loss = class_loss(logit.expand(10, 2), classes, log_prior=log_prior)
            loss.backward()
            return loss

        optimiser.step(step)
        assert float(logit.detach().softmax(dim=0)[1]) == pytest.approx(wanted, abs=0.01)
