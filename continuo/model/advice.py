"""Say what helps a model most, from its training alone. All commands ask here, so that they say the same."""

from continuo.model.checkpoint import Progress

OVERFIT_VALIDATIONS = 3  # number of validations after the best one, all worse, that mean memorizing
MORE_MUSIC = "more recordings help most; longer training does not"
LONGER = "longer training still helps"


def memorizes(progress: Progress) -> bool:
    """Return whether the held-out loss has been rising for so long that the model only memorizes."""
    earlier = progress.history[:-OVERFIT_VALIDATIONS]
    return bool(earlier) and progress.best_step is not None and progress.best_step <= earlier[-1][0]


def lever(progress: Progress) -> str:
    """Return what helps most, in words that end a sentence; nothing while that cannot be told."""
    if memorizes(progress):
        return MORE_MUSIC
    return LONGER if len(progress.history) >= 2 and progress.history[-1][0] == progress.best_step else ""
