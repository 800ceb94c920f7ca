"""A case's row of deep features: of ResNet-34 on regions, and what trained networks that never saw the patient say.

A network that learnt from labels knows them of the patients that it learnt from. Each patient's features therefore
come from the fold in whose training he took no part; of a network that saw nobody of his cohort, from the final one.
Networks of different folds have axes of their own: they share their first weights, and each feature is standardised
by the training patients of its network, so that folds compare as far as they can. So are its answers: the log-odds of
a class, and the risk less the mean of its training patients.

The manifest states who made the features of each view: a network by its folder and the hash of its final weights,
whichever fold spoke, so that features of a network and of the one that was trained in its place are not taken for one.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from services.model_serving.case_input import input_keys, read_input
from services.model_serving.contracts import DeepParameters, DeepRequest, DeepResult
from services.model_serving.embedding import (
    Embedder,
    embed_case,
    embedding_view,
    make_embedder,
    name_start,
)
from services.model_serving.networks.grade import GradeAndRisk
from services.model_serving.networks.residual import PooledNetwork
from services.model_serving.networks.specification import ImagingSpec, Task, build_network
from services.shared.cohort import CaseKeys
from services.shared.contracts import CaseRef
from services.shared.device import choose_device
from services.shared.errors import ChangedFile, GliaflowError, InvalidMask, InvalidValue
from services.shared.manifest import read_manifest, run_step
from services.shared.storage import Storage
from services.shared.trained_network import card_key, load_network, read_card, verified_sha256, weights_key

Array = npt.NDArray[np.float32]

STEP = "deep"
VERSION = "3"


def statistics_key(model: str) -> str:
    """Key of the mean and scale of each pooled feature over a network's training patients."""
    return f"{model}/features.npz"


def extract_deep(storage: Storage, request: DeepRequest) -> DeepResult:
    """Make a case's row of deep features, or find that it is made.

    Raises
    ------
    MissingSequence, NotFound, InvalidVolume, SpaceMismatch, UnreadableFile
        Where the case, a network or the weights cannot be used.
    InvalidValue
        Where a network has seen the patient and none of its folds has not, or two networks' features share a name.
    """
    case, parameters, keys = request.case, request.parameters, CaseKeys(request.case)
    try:
        chosen = {model: unseen_network(storage, model, case) for model in parameters.networks}
        specs = {model: read_card(storage, folder, ImagingSpec).spec for model, folder in chosen.items()}
        _check_names(specs)
        views = list(specs.values())
        if parameters.sequences:
            views.append(embedding_view(parameters.sequences, parameters.source))
        inputs = {key for view in views for key in input_keys(storage, case, view).values()}
        for folder in chosen.values():
            verified_sha256(storage, folder, ImagingSpec)
            inputs |= {card_key(folder), weights_key(folder), statistics_key(folder)}
        start = name_start(storage, parameters.weights)
        makers = {
            spec.column_start: f"{model} {read_card(storage, model, ImagingSpec).weights_sha256}"
            for model, spec in specs.items()
        }
        makers |= {f"{s}_{r}": f"ResNet-34 {start}" for s in parameters.sequences for r in parameters.regions}
    except GliaflowError as error:
        raise error.with_context(case=str(case), step=STEP) from None

    def compute() -> list[str]:
        rows = [network_features(storage, case, folder, model) for model, folder in chosen.items()]
        if parameters.sequences:
            rows.append(
                embed_case(
                    storage,
                    case,
                    _embedder(storage, parameters, start),
                    sequences=parameters.sequences,
                    regions=parameters.regions,
                    source=parameters.source,
                )
            )
        with storage.publish(keys.deep_features) as path:
            pd.concat(rows, axis=1).to_parquet(path)
        return [keys.deep_features]

    manifest, cached = run_step(
        storage,
        keys.manifest(STEP),
        step=STEP,
        step_version=VERSION,
        case=str(case),
        inputs=sorted(inputs),
        parameters={
            "start": start,
            "networks": chosen,
            "makers": makers,
            **parameters.model_dump(mode="json", include={"sequences", "regions", "source"}),
        },
        packages=["SimpleITK", "monai", "numpy", "torch"],
        compute=compute,
        device=str(choose_device()),
    )
    with storage.local(keys.deep_features) as path:
        count = pd.read_parquet(path).shape[1]
    return DeepResult(
        case=case,
        cached=cached,
        features=count,
        start=start,
        networks=chosen,
        key=keys.deep_features,
        seconds=manifest.seconds,
    )


def unseen_network(storage: Storage, model: str, case: CaseRef) -> str:
    """Return the folder of a network that learnt nothing from a case: one of its folds, or the final network.

    Raises
    ------
    InvalidValue
        Where the final network has learnt from the case, and no fold left it out.
    """
    for name in storage.folders(f"{model}/folds"):
        manifest = read_manifest(storage, f"{model}/folds/{name}/manifest.json")
        held = None if manifest is None else manifest.parameters.get("held_out")
        if isinstance(held, list) and str(case) in held:
            return f"{model}/folds/{name}"
    manifest = read_manifest(storage, f"{model}/manifest.json")
    seen = None if manifest is None else manifest.parameters.get("cases")
    if isinstance(seen, list) and str(case) not in seen:
        return model
    raise InvalidValue(
        "the network has learnt from this patient, and no fold of it has not"
        if manifest is not None
        else "nothing states whom the network has learnt from",
        field=model,
        expected="a network whose cross-validation holds the patient out",
        got="a network without folds" if manifest is not None else "a network without manifest",
        remedy="train it with folds: 'folds' in the section train_imaging",
    )


def answer_names(task: Task) -> tuple[str, ...]:
    """Return what the columns of a network's own answers end with, in the order of :func:`_read_answers`."""
    return {"classes": ("logit",), "survival": ("risk",), "both": ("logit", "risk")}[task]


def network_features(storage: Storage, case: CaseRef, folder: str, model: str) -> pd.DataFrame:
    """Return one row of a network's pooled features, standardised by its training patients, and of its answers.

    All are missing where there is no tumour.

    Parameters
    ----------
    folder
        The network, see :func:`unseen_network`.
    model
        The network that it is a fold of, for messages.
    """
    card = read_card(storage, folder, ImagingSpec)
    spec, answers = card.spec, answer_names(card.spec.task)
    with np.load(io.BytesIO(storage.read_bytes(statistics_key(folder))), allow_pickle=False) as file:
        mean, scale = file["mean"], file["scale"]
    try:
        values: Array | None = read_input(storage, case, spec).values
    except InvalidMask:
        values = None
    if values is None:
        row = np.full(len(mean) + len(answers), np.nan, dtype=np.float32)
    else:
        network = _network(storage.root, folder, verified_sha256(storage, folder, ImagingSpec), str(choose_device()))
        with torch.inference_mode():
            pooled = network.embed(torch.from_numpy(values)[None].to(choose_device()))
            said = _read_answers(network.answer(pooled), risk_mean=float(card.training.get("risk_mean", 0.0)))
        found = pooled[0].float().cpu().numpy()
        if found.shape != mean.shape:
            raise ChangedFile(
                "the statistics of the features are not this network's",
                field=statistics_key(folder),
                expected=f"{len(found)} features",
                got=f"{len(mean)}",
                remedy=f"train {model} again",
            )
        row = np.concatenate([(found - mean) / scale, said])
    ends = [*range(1, len(mean) + 1), *answers]
    names = [f"{spec.column_start}_deep_{end}" for end in ends]
    return pd.DataFrame([row], columns=names, index=pd.Index([case.id], name="case_id"))


def _read_answers(output: torch.Tensor | GradeAndRisk, *, risk_mean: float) -> Array:
    """Return the log-odds of the positive class and the risk of one patient, as far as a network says them."""
    parts = (output.grade_logits, output.risk) if isinstance(output, GradeAndRisk) else (output,)
    said = [float(part[0, 1] - part[0, 0]) if part.ndim == 2 else float(part[0]) - risk_mean for part in parts]
    return np.array(said, dtype=np.float32)


def _check_names(specs: dict[str, ImagingSpec]) -> None:
    names: dict[tuple[str, str], str] = {}
    for model, spec in specs.items():
        other = names.setdefault((spec.architecture, str(spec.region)), model)
        if other != model:
            raise InvalidValue(
                "two networks' features would have the same names",
                field="networks",
                expected="one network of an architecture and region",
                got=f"{other}, {model}",
            )


@lru_cache(maxsize=8)
def _network(root: str, folder: str, sha256: str, device: str) -> PooledNetwork:  # noqa: ARG001 - the hash is the key
    return load_network(Storage(root), folder, ImagingSpec, build_network)[1].to(device)


def _embedder(storage: Storage, parameters: DeepParameters, start: str) -> Embedder:
    return _resident_embedder(storage.root, parameters.weights, start)


@lru_cache(maxsize=1)
def _resident_embedder(root: str, weights: str | None, start: str) -> Embedder:  # noqa: ARG001 - it names the hash
    return make_embedder(Storage(root), weights)
