import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from salt.figures import plot_history, plot_search, plot_tiles


def test_the_learning_curves_show_each_fold_in_training_and_held_out():
    rows = [
        dict(fold=fold, epoch=epoch, loss=3 - epoch, score=epoch / 3, val_loss=4 - epoch, val_score=epoch / 4)
        for fold in (0, 2)
        for epoch in (1, 2)
    ]
    figure = plot_history(pd.DataFrame(rows))
    loss, score = figure.axes
    assert [line.get_label() for line in score.lines if not line.get_label().startswith("_")] == ["fold 0", "fold 2"]
    np.testing.assert_array_equal(loss.lines[1].get_ydata(), [3, 2])  # val_loss of fold 0
    np.testing.assert_array_equal(score.lines[2].get_ydata(), [1 / 3, 2 / 3])  # score of fold 2
    plt.close(figure)


def test_the_grid_shows_each_image_once_plain_and_once_below_each_mask():
    images = np.zeros((5, 101, 101), np.uint8)
    masks = np.ones_like(images)
    figure = plot_tiles(images, {"truth": masks, "prediction": 0 * masks}, list("abcde"), columns=3)
    visible = [panel for panel in figure.axes if panel.get_visible()]
    assert len(visible) == 15
    assert [panel.get_title() for panel in visible if panel.get_title()] == list("abcde")
    truth = next(panel for panel in visible if panel.get_ylabel() == "truth").images[1].get_array()
    prediction = next(panel for panel in visible if panel.get_ylabel() == "prediction").images[1].get_array()
    assert truth.count() == 101 * 101 and prediction.count() == 0  # only salt is coloured
    plt.close(figure)


def test_a_search_is_drawn_with_the_best_so_far_and_what_was_given_up():
    table = pd.DataFrame(
        dict(
            trial=[3, 1, 0, 2, 4],
            state=["complete", "complete", "complete", "pruned", "running"],
            score=[0.7, 0.6, 0.5, 0.4, np.nan],
        )
    )
    figure = plot_search(table, {"depth": 0.9, "lovasz": 0.1})
    scores, shares = figure.axes
    dots, crosses, best = scores.lines
    np.testing.assert_array_equal(dots.get_xydata(), [[0, 0.5], [1, 0.6], [3, 0.7]])
    np.testing.assert_array_equal(crosses.get_xydata(), [[2, 0.4]])
    np.testing.assert_array_equal(best.get_ydata(), [0.5, 0.6, 0.7])
    assert [bar.get_width() for bar in shares.patches] == [0.9, 0.1]
    assert [label.get_text() for label in shares.get_yticklabels()] == ["depth", "lovasz"]
    plt.close(figure)
    figure = plot_search(table.iloc[2:3], {})
    assert "two trials" in figure.axes[1].get_title()
    plt.close(figure)
