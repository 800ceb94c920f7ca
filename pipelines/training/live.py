"""Figures of a training while it runs, in DVCLive's folder: ``dvc plots`` and ``dvc exp show`` read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pipelines.training.processes import is_first_process
from services.shared.storage import Storage

LogEpoch = Callable[[int, Mapping[str, float]], None]


def live_folder(storage: Storage, model: str) -> Path | None:
    """Return where a model's live figures lie: beside it, or nowhere where storage is no folder of this machine."""
    return Path(storage.url(f"{model}/live")) if storage.is_local else None


@contextmanager
def live_figures(folder: Path | None, *, go_on: bool = False) -> Iterator[LogEpoch]:
    """Yield what writes an epoch's number and figures; it does nothing without a folder or on a later process.

    Parameters
    ----------
    go_on
        Keep the figures of earlier epochs, of a training that is gone on with.
    """
    if folder is None or not is_first_process():
        yield lambda _epoch, _figures: None
        return
    from dvclive.live import Live

    with Live(dir=str(folder), resume=go_on, save_dvc_exp=False, dvcyaml=None) as live:

        def log(epoch: int, figures: Mapping[str, float]) -> None:
            live.step = epoch
            for name, value in figures.items():
                live.log_metric(name, value, plot=True)
            live.make_summary()

        yield log
