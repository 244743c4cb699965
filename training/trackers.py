"""Which trackers there are; apart, so that commands can name them without importing torch."""

TRACKERS = ("mlflow", "tensorboard")
