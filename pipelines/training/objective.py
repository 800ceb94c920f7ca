"""What one training of an imaging network minimises, for some of its patients."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipelines.training.imaging_data import ImagingOutcome, Rows
from pipelines.training.imaging_parameters import ImagingTrainParameters
from pipelines.training.losses import class_loss, cox_loss, months_loss
from services.model_serving.networks.grade import GradeAndRisk

Array = npt.NDArray[np.float64]


class Objective:
    """What is minimised, for rows of one training's patients."""

    def __init__(self, outcome: ImagingOutcome, learn: Rows, parameters: ImagingTrainParameters) -> None:
        self.outcome, self.learn = outcome, learn
        self._parameters = parameters
        self._log_prior: torch.Tensor | None = None
        if parameters.imbalance == "logit_adjustment" and outcome.classes is not None:
            counts = np.bincount(outcome.classes[learn][outcome.classes[learn] >= 0], minlength=2)
            self._log_prior = torch.from_numpy(np.log(np.maximum(counts, 1) / counts.sum())).float()
        self._wanted: Array | None = None
        if parameters.survival_loss == "mse" and outcome.months is not None and outcome.event is not None:
            life = np.log1p(outcome.months)
            known = life[learn][outcome.event[learn] == 1]
            self._wanted = (known.mean() - life) / max(float(known.std()), 1e-6)

    def loss(self, output: object, rows: Rows) -> torch.Tensor:
        """Return the loss of a network's output for some patients."""
        if isinstance(output, GradeAndRisk):
            return self._classes(output.grade_logits, rows) + self._parameters.survival_weight * self._survival(
                output.risk, rows
            )
        assert isinstance(output, torch.Tensor)
        return self._survival(output, rows) if output.ndim == 1 else self._classes(output, rows)

    def _classes(self, logits: torch.Tensor, rows: Rows) -> torch.Tensor:
        assert self.outcome.classes is not None
        prior = None if self._log_prior is None else self._log_prior.to(logits.device)
        return class_loss(logits.float(), _tensor(self.outcome.classes[rows], logits), log_prior=prior)

    def _survival(self, risk: torch.Tensor, rows: Rows) -> torch.Tensor:
        assert self.outcome.months is not None
        assert self.outcome.event is not None
        event = _tensor(self.outcome.event[rows], risk)
        if self._wanted is not None:
            return months_loss(risk.float(), _tensor(self._wanted[rows].astype(np.float32), risk), event)
        return cox_loss(risk.float(), _tensor(self.outcome.months[rows], risk), event)


def _tensor(values: npt.NDArray[Any], like: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.device)
