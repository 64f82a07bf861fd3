"""How the open ones among the runs stand on Kaggle."""

from desk.errors import DeskError
from desk.kaggle.kernels import read_status
from desk.kaggle.transport import KaggleLink
from desk.run_table import folds_of


def refresh(link: KaggleLink, fact: dict) -> None:
    """Asks Kaggle how a run stands that is still open, or those of its folds."""
    if fact["parts"] and fact["state"] == folds_of(fact["parts"]):
        for part in fact["parts"]:
            refresh(link, part)
        fact["state"] = folds_of(fact["parts"])
    if fact["state"] not in ("pushed", "differs") or not fact["ref"] or not fact["version"]:
        return
    try:
        fact["state"] = read_status(link, fact["ref"], fact["version"]).state
    except DeskError:
        fact["state"] = "UNREADABLE"
