"""Muon in float32.

`torch.optim.Muon` casts to bfloat16 for its Newton-Schulz steps, which takes ten times as long on
processors without such units; otherwise this is the same rule (Jordan et al. 2024).
"""

import torch

_STEPS, _COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum for weight matrices, with decoupled weight decay."""

    def __init__(self, parameters, *, lr: float = 0.02, momentum=0.95, weight_decay=0.01):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        """One step of every matrix; no closure is called."""
        for group in self.param_groups:
            rate, keep = group["lr"], group["momentum"]
            for matrix in group["params"]:
                state = self.state[matrix]
                mean = state.setdefault("momentum", torch.zeros_like(matrix))
                mean.lerp_(matrix.grad, 1 - keep)
                change = orthogonalised(matrix.grad.lerp(mean, keep))
                # As torch's: a matrix that is taller than wide takes longer steps.
                scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                matrix.mul_(1 - rate * group["weight_decay"]).sub_(change, alpha=rate * scale)


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix (rows, columns) with its singular values drawn towards 1 by Newton-Schulz."""
    a, b, c = _COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(_STEPS):
        square = x @ x.T
        x = torch.addmm(a * x, torch.addmm(b * square, square, square, alpha=c), x)
    return x.T if is_tall else x
