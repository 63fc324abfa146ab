"""Muon for the matrices inside the layers, Adam for embedding and norms, on fp32 masters of bf16 weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

RunAll = Callable[[Callable, Iterable], Iterable[Any]]


class MuonAdam:
    """Keeps fp32 masters of a bf16 model's weights and updates both.

    Muon (Jordan et al. 2024) replaces a matrix's momentum by the nearest orthogonal matrix, which for models
    this small takes about half of Adam's steps to the same loss. Equal shapes are orthogonalised together.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        muon_rate: float = 0.02,
        adam_rate: float = 0.004,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        max_gradient_norm: float = 1.0,
    ) -> None:
        self.muon_rate, self.adam_rate, self.weight_decay = muon_rate, adam_rate, weight_decay
        self.momentum, self.max_gradient_norm = momentum, max_gradient_norm
        self.weights = dict(model.named_parameters())
        self.masters = {name: weight.detach().float().clone() for name, weight in self.weights.items()}
        self.first = {name: torch.zeros_like(master) for name, master in self.masters.items()}
        self.second = {n: torch.zeros_like(m) for n, m in self.masters.items() if not self._is_muon(n)}
        self.n_steps = 0

    def _is_muon(self, name: str) -> bool:
        return self.masters[name].ndim == 2 and "embed" not in name

    @torch.no_grad()
    def step(self, gradients: dict[str, Tensor], rate_scale: float, run_all: RunAll = map) -> None:
        """Apply fp32 gradients, by name, with the learning rates times `rate_scale`.

        `run_all` is a map that may run its calls at the same time.
        """
        self.n_steps += 1
        norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients.values()])).item()
        clip = min(1.0, self.max_gradient_norm / (norm + 1e-6))
        by_shape: dict[torch.Size, list[str]] = defaultdict(list)
        for name, gradient in gradients.items():
            if self._is_muon(name):
                by_shape[gradient.shape].append(name)
            else:
                self._adam(name, gradient * clip, rate_scale * self.adam_rate)
        groups = [names[i : i + 10] for names in by_shape.values() for i in range(0, len(names), 10)]
        rate = rate_scale * self.muon_rate
        list(run_all(lambda names: self._muon(names, [gradients[name] for name in names], rate), groups))
        for name, weight in self.weights.items():
            weight.copy_(self.masters[name])

    def _adam(self, name: str, gradient: Tensor, rate: float) -> None:
        first_decay, second_decay = 0.9, 0.98
        first = self.first[name].lerp_(gradient, 1 - first_decay)
        second = self.second[name].lerp_(gradient.square(), 1 - second_decay)
        first_unbiased = first / (1 - first_decay**self.n_steps)
        second_unbiased = second / (1 - second_decay**self.n_steps)
        self.masters[name].addcdiv_(first_unbiased, second_unbiased.sqrt() + 1e-9, value=-rate)

    @torch.no_grad()  # again, as gradient mode belongs to the thread
    def _muon(self, names: list[str], gradients: list[Tensor], rate: float) -> None:
        directions = []
        for name, gradient in zip(names, gradients, strict=True):
            velocity = self.first[name].lerp_(gradient, 1 - self.momentum)
            directions.append(gradient.lerp(velocity, self.momentum))
        updates = orthogonalise(torch.stack(directions))
        n_rows, n_columns = updates.shape[-2:]
        scale = max(1.0, n_rows / n_columns) ** 0.5
        for name, update in zip(names, updates, strict=True):
            self.masters[name].mul_(1 - rate * self.weight_decay).add_(update, alpha=-rate * scale)

    def state_dict(self) -> dict:
        return {"masters": self.masters, "first": self.first, "second": self.second, "n_steps": self.n_steps}

    @torch.no_grad()
    def load_state_dict(self, state: dict) -> None:
        self.masters, self.first, self.second = state["masters"], state["first"], state["second"]
        self.n_steps = state["n_steps"]
        for name, weight in self.weights.items():
            weight.copy_(self.masters[name])


def orthogonalise(matrices: Tensor, n_iterations: int = 5) -> Tensor:
    """Matrices [..., R, C] with all singular values brought near one by Newton-Schulz iterations in bf16."""
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.bfloat16()
    x = x.mT if is_tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(n_iterations):
        gram = x @ x.mT
        # The published quintic: steep at zero, so that small singular values grow fast.
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if is_tall else x).float()
