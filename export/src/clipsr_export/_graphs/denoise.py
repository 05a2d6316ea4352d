"""The graph of `denoise`."""

# torch ships partial types: what comes out of it is unknown to the checker.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from torch import Tensor, nn

from clipsr_training.restoration import Restorer, fold_contexts


class DenoiseGraph(nn.Module):
    """`denoise`: the clean picture, as a restorer predicts it from a state of the SDE.

    Args:
        restorer: of parametrization `residual`, with contexts.
    """

    def __init__(self, restorer: Restorer) -> None:
        super().__init__()
        self.network = fold_contexts(restorer.network)

    def forward(self, state: Tensor, lq: Tensor, time: Tensor, content: Tensor, degradation: Tensor) -> Tensor:
        """Map state and lq FP32 [N, 3, H, W], time [N, 1] and contexts [N, C] to clean FP32 [N, 3, H, W].

        Sides are multiples of what the network halves them by. The result is RGB, nominally in [0, 1], not clamped.
        """
        return lq + self.network(state, lq, time[:, 0], content, degradation)
