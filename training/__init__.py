"""From cases on disk to a checkpoint: data sets, phantom, losses, ``fit``, evaluation.

Knows nothing of the network between sites; ``federation`` calls the same ``fit``.
"""
