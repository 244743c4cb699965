"""From cases on disk to a checkpoint: data sets, phantom, losses, ``fit``, evaluation.

Knows nothing of the network between sites; ``federation`` calls the same ``fit``.
"""

# Here, so that commands can name them without bringing in torch.
TRACKERS = ("mlflow", "tensorboard")
