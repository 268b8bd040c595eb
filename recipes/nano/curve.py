"""The loss curve of a run as a picture."""

from __future__ import annotations

from pathlib import Path

from recipes.nano.checkpoint import Progress


def draw(progress: Progress, path: Path, window: int = 50) -> None:
    """Write the moving average of the loss over tokens, with a line where each stage of the curriculum begins."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    losses = progress.losses
    smooth = [
        sum(losses[max(0, end - window) : end]) / len(losses[max(0, end - window) : end])
        for end in range(1, len(losses) + 1)
    ]
    per_step = progress.tokens / max(1, progress.step) / 1e6
    figure, axes = pyplot.subplots(figsize=(7, 4))
    axes.plot([step * per_step for step in range(1, len(losses) + 1)], smooth, linewidth=1.2)
    for step, stage in progress.stages[1:]:
        axes.axvline(step * per_step, color="grey", linewidth=0.6)
        axes.annotate(
            f"stage {stage}", (step * per_step, max(smooth[20:] or smooth)), fontsize=7, rotation=90, va="top"
        )
    axes.set_xlabel("million tokens")
    axes.set_ylabel(f"weighted loss, mean of {window} steps")
    axes.set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
