"""Tumours as fields in a head."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.phantom.anatomy import draw_subject, smooth_noise
from pipelines.phantom.clinic import Biology, draw_biology
from pipelines.phantom.effects import Stream, random_stream
from pipelines.phantom.tumour import draw_tumour_plan, place_tumour
from services.shared.cohort import Label, Sequence


@pytest.fixture(scope="module")
def head():
    return draw_subject(random_stream(2, 0, Stream.ANATOMY), spacing_mm=4.0)


def test_head_is_made_of_fractions(head):
    assert head.fractions.min() > -1e-5
    assert head.fractions.sum(axis=0).max() < 1 + 1e-4
    litres = head.brain.sum() * 4**3 / 1e6
    assert 1.2 < litres < 2.4


@pytest.mark.parametrize("index", range(8))
def test_labels_nest_inside_the_brain(head, index):
    plan = draw_tumour_plan(2, index, draw_biology(2, index))
    tumour = place_tumour(2, index, plan, head)
    assert np.all(tumour.lesion <= tumour.core)
    assert np.all(head.brain[tumour.box][tumour.core < 0] > 0.5)
    volume_ml = (tumour.core < 0).sum() * 4**3 / 1000
    assert 0.4 * plan.core_ml < volume_ml < 1.6 * plan.core_ml
    weights = tumour.weights(4.0)
    assert all(w.min() >= 0 for w in weights.values())
    assert sum(weights.values()).max() <= 1 + 1e-6
    assert (weights[Label.ENHANCING].max() > 0) == (plan.rim_thickness_mm > 0)
    # The field has died away at the faces of its box, so no lesion is cut.
    faces = [np.take(tumour.lesion, [0, -1], axis=axis) for axis in range(3)]
    assert all(face.min() > 0 for face in faces)


@pytest.mark.parametrize("thickness_mm", [3.0, 5.0, 7.0])
def test_rim_is_a_shell_of_its_thickness(head, thickness_mm):
    plan = replace(
        draw_tumour_plan(2, 0, Biology(4, "WT", "low")),
        core_radius_mm=20.0,
        rim_thickness_mm=thickness_mm,
        rim_coverage=1.0,
    )
    tumour = place_tumour(2, 0, plan, head)
    core = tumour.core < 0
    share = (core & (tumour.rim < 0)).sum() / core.sum()
    assert share == pytest.approx(plan.enhancing_ml / plan.core_ml, abs=0.12)
    assert not np.any(tumour.rim[tumour.core < -thickness_mm] < 0)


def test_texture_of_mutants_is_coarser(head):
    def correlation(index: int) -> float:
        plan = draw_tumour_plan(2, index, draw_biology(2, index))
        t = place_tumour(2, index, plan, head).texture[Sequence.FLAIR]
        return float(np.corrcoef(t[..., :-1].ravel(), t[..., 1:].ravel())[0, 1])

    by_status = {"WT": [], "Mutant": []}
    for index in range(12):
        by_status[draw_biology(2, index).atrx].append(correlation(index))
    assert np.mean(by_status["Mutant"]) > np.mean(by_status["WT"]) + 0.1


def test_smooth_noise_has_its_length():
    noise = smooth_noise(np.random.default_rng(0), (60, 60, 60), length_mm=4.0, spacing_mm=2.0)
    assert noise.mean() == pytest.approx(0, abs=1e-4)
    assert noise.std() == pytest.approx(1, abs=1e-4)
    # White noise under a Gaussian of SD s has the autocorrelation exp(-d^2 / 4 s^2).
    lag = np.mean(noise * np.roll(noise, 2, axis=0))
    assert lag == pytest.approx(np.exp(-(4.0**2) / (4 * 4.0**2)), abs=0.03)
