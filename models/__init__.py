"""What a model is: labels, manifest, preprocessing, prediction, the store; no data sets, no HTTP.

Only ``models.architectures`` and ``models.export`` import torch.
"""
