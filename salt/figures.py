"""Figures of a run, for the end of a notebook."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd


def plot_history(history: pd.DataFrame) -> plt.Figure:
    """Learning curves: loss and score by epoch, a colour for each fold.

    Args:
        history: from `fit_folds`: columns `fold`, `epoch`, `loss`, `score`, `val_loss`, `val_score`.

    Returns:
        A figure with two panels; training dotted, held-out tiles solid.
    """
    figure, panels = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    for panel, name in zip(panels, ("loss", "score"), strict=True):
        for index, (fold, rows) in enumerate(history.groupby("fold")):
            colour = f"C{index % 10}"
            panel.plot(rows["epoch"], rows[name], ":", color=colour)
            panel.plot(rows["epoch"], rows[f"val_{name}"], color=colour, label=f"fold {fold}")
        panel.set(xlabel="epoch", title=f"{name} (training dotted, held out solid)")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(alpha=0.3)
    panels[1].legend()
    return figure


def plot_search(table: pd.DataFrame, importances: dict[str, float]) -> plt.Figure:
    """A search: the score of each trial with the best so far, and the importance of each setting.

    Args:
        table: from `trials_table`: columns `trial`, `state`, `score`.
        importances: {setting: share}, from `parameter_importances`.

    Returns:
        A figure with two panels; crosses are pruned trials.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    table = table.sort_values("trial")
    complete, pruned = table[table["state"] == "complete"], table[table["state"] == "pruned"]
    left.plot(complete["trial"], complete["score"], "o", color="C0")
    left.plot(pruned["trial"], pruned["score"], "x", color="C1")
    left.step(complete["trial"], complete["score"].cummax(), where="post", color="C0", alpha=0.5)
    left.set(xlabel="trial", title="score")
    left.xaxis.get_major_locator().set_params(integer=True)
    left.grid(alpha=0.3)
    right.barh(list(importances), list(importances.values()), color="C0")
    right.invert_yaxis()
    right.set(xlim=(0, 1), title="importance" if importances else "importance: takes two trials that differ in score")
    return figure


def plot_tiles(images: np.ndarray, overlays: dict[str, np.ndarray], titles: list[str], columns: int = 8) -> plt.Figure:
    """A grid of tiles: the image in one row, below it one row for each kind of mask.

    Args:
        images: uint8 `[N, H, W]`.
        overlays: name of a kind of mask to masks or probabilities `[N, H, W]`, such as
            `{"truth": ..., "prediction": ...}`; drawn over the image in a colour of their own.
        titles: N short texts, above the images.
        columns: tiles side by side.

    Returns:
        The figure.
    """
    columns = min(columns, len(images))
    blocks = -(-len(images) // columns)
    rows = 1 + len(overlays)
    figure, panels = plt.subplots(
        blocks * rows, columns, figsize=(1.5 * columns, 1.6 * blocks * rows), layout="constrained", squeeze=False
    )
    for panel in panels.flat:
        panel.set(xticks=[], yticks=[])
        panel.set_visible(False)
    for index, (image, title) in enumerate(zip(images, titles, strict=True)):
        top, column = index // columns * rows, index % columns
        for row, name in enumerate(["image", *overlays]):
            panel = panels[top + row, column]
            panel.set_visible(True)
            panel.imshow(image, cmap="gray", vmin=0, vmax=255)
            if row:
                marked = np.ma.masked_equal(overlays[name][index], 0)
                panel.imshow(marked, cmap=("summer", "autumn", "winter")[(row - 1) % 3], alpha=0.5)
            else:
                panel.set_title(title, fontsize=8)
            if column == 0:
                panel.set_ylabel(name)
    return figure
