"""DoDNet's dynamic head: three 1x1x1 convolutions whose weights the image and its task make.

Zhang et al., "DoDNet: Learning to segment multi-organ and tumors from multiple partially labeled
datasets" (CVPR 2021); sizes and the order of the weights follow the authors' code
(jianpengz/DoDNet).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from imaging.errors import BadParameter


class DynamicHead(nn.Module):
    """A controller that makes a small head for every image of a batch, and that head.

    The controller is one affine map of (pooled features, task as one-hot). Its outputs are, in
    this order, the weights of the three convolutions and then their biases.

    Args:
        pooled: number of pooled features.
        channels: output channels; DoDNet's two are an organ and its tumour, both sigmoid.
        tasks: number of tasks.
        task: the task of an image that comes without one, from 0.
        width: channels of the head's input and of its hidden layers (8 in the paper).

    Raises:
        BadParameter: there is no such task.
    """

    def __init__(
        self, pooled: int, channels: int, tasks: int, task: int = 0, width: int = 8
    ) -> None:
        super().__init__()
        if not 0 <= task < tasks:
            raise BadParameter(f"task must be from 0 to {tasks - 1}, not {task}.")
        self.tasks, self.task = tasks, task
        self.layers = ((width, width), (width, width), (channels, width))
        self.sizes = [o * i for o, i in self.layers] + [o for o, _ in self.layers]
        self.controller = nn.Linear(pooled + tasks, sum(self.sizes))

    def forward(self, features: Tensor, pooled: Tensor, tasks: Tensor | None = None) -> Tensor:
        """Logits (N, channels, *space).

        Args:
            features: (N, width, *space).
            pooled: (N, pooled), of each image as a whole.
            tasks: (N,) int64; ``None`` takes the head's own task for all.

        Raises:
            BadParameter: tasks of another shape or type, or out of range.
        """
        split = torch.split_with_sizes(self.made(pooled, tasks), self.sizes, 1)
        # One matrix product for all images, each with its own weights: what a convolution with a
        # group for each image computes, and what ONNX Runtime computes well.
        x = features.flatten(2)
        for index, (outputs, inputs) in enumerate(self.layers):
            weight = split[index].reshape(-1, outputs, inputs)
            bias = split[len(self.layers) + index]
            x = torch.matmul(weight, functional.relu(x) if index else x) + bias[:, :, None]
        return x.reshape(x.shape[0], x.shape[1], *features.shape[2:])

    def made(self, pooled: Tensor, tasks: Tensor | None = None) -> Tensor:
        """The controller's output (N, sum of ``sizes``): all weights, then all biases."""
        weight, bias = self.controller.weight, self.controller.bias
        # A matrix times a one-hot vector is one of its columns.
        of_task = weight[:, -self.tasks :].t()
        chosen = of_task[self.task] if tasks is None else of_task[self._checked(tasks, pooled)]
        return functional.linear(pooled, weight[:, : -self.tasks], bias) + chosen

    def _checked(self, tasks: Tensor, pooled: Tensor) -> Tensor:
        if tasks.shape != pooled.shape[:1] or tasks.dtype != torch.int64:
            raise BadParameter(
                f"tasks must be int64 of shape ({len(pooled)},), one for each image, not "
                f"{tasks.dtype} of {tuple(tasks.shape)}."
            )
        if not 0 <= int(tasks.min()) <= int(tasks.max()) < self.tasks:
            raise BadParameter(f"tasks must be from 0 to {self.tasks - 1}, not {tasks.tolist()}.")
        return tasks.to(pooled.device)
