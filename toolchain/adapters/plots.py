"""A study -> pictures: PNG by matplotlib, and one HTML page by plotly where that is installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.study import Study

_NAMES = {
    "history": "plot_optimization_history", "importance": "plot_param_importances",
    "parallel": "plot_parallel_coordinate", "slice": "plot_slice",
}


def write(study: Study, folder: Path, metric: str) -> list[Path]:
    """As many as the study's trials are enough for: an importance needs two that differ."""
    from optuna import visualization
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return []
    varied = {name for name in complete[0].params
              if len({item.params.get(name) for item in complete}) > 1}
    names = [name for name in _NAMES if name != "importance" or (len(complete) > 2 and varied)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [path for name in names if (path := _png(study, folder, name, metric)) is not None]
        if visualization.is_available():
            found.append(_page(study, folder, names, metric))
    return found


def _drawn(module: Any, study: Study, name: str, metric: str) -> Any | None:
    draw: Callable[..., Any] = getattr(module, _NAMES[name])
    try:
        return draw(study, target_name=metric)
    except (ValueError, RuntimeError, ZeroDivisionError):
        return None  # Optuna says so of trials that are all alike


def _png(study: Study, folder: Path, name: str, metric: str) -> Path | None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from optuna.visualization import matplotlib as module

    try:
        axes = _drawn(module, study, name, metric)
        if axes is None:
            return None
        first = axes.flat[0] if hasattr(axes, "flat") else axes
        path = folder / f"{name}.png"
        first.figure.savefig(path, dpi=100, bbox_inches="tight")
        return path
    finally:
        plt.close("all")


def _page(study: Study, folder: Path, names: list[str], metric: str) -> Path:
    """All figures, with the one script that they need within: it is to be read offline too."""
    from optuna import visualization

    parts: list[str] = []
    for name in names:
        figure = _drawn(visualization, study, name, metric)
        if figure is not None:
            parts.append(figure.to_html(full_html=False, include_plotlyjs=not parts))
    path = folder / "sweep.html"
    path.write_text("<!doctype html>\n<meta charset=\"utf-8\">\n" + "\n".join(parts))
    return path
