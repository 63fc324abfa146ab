"""Gradients on several cores: one single-threaded replica per core, each taking the next part of the batch."""

from __future__ import annotations

import copy
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from queue import SimpleQueue

import torch
from torch import Tensor

from experiments.pair.llama import Llama

LossOf = Callable[[Llama, Tensor, Tensor], Tensor]  # model, windows [B, T + 1], progress [] to a scalar


class Workers:
    """A pool of replicas that share one model's weights but not its gradients.

    Threads inside every operation would all wait for the slowest at each of thousands of barriers; here a core
    that something else keeps busy just takes fewer parts. On a machine of one's own it is a third faster too.
    """

    def __init__(self, model: Llama, loss_of: LossOf, n_workers: int) -> None:
        self.pool = ThreadPoolExecutor(n_workers, initializer=torch.set_num_threads, initargs=(1,))
        self._replicas = [_replica(model) for _ in range(n_workers)]
        self._losses = [_compiled(loss_of, replica) for replica in self._replicas]
        self._free: SimpleQueue[int] = SimpleQueue()
        for i in range(n_workers):
            self._free.put(i)

    def warm_up(self, part: Tensor) -> None:
        """Compile every replica for parts of this shape, one after the other: the compiler has one lock."""
        for replica, loss in zip(self._replicas, self._losses):
            self.pool.submit(_backward, loss, part, torch.tensor(0.0)).result()
            replica.zero_grad()

    def gradients(self, parts: Sequence[Tensor], fraction: float) -> tuple[float, dict[str, Tensor]]:
        """Mean loss over equally large parts, and its gradients in fp32 by parameter name.

        `fraction` of the training is over; a loss may change with it.
        """
        mean_loss = sum(self.pool.map(self._on_a_free_replica, parts, repeat(torch.tensor(fraction)))) / len(parts)
        sums: dict[str, Tensor] = {}
        for replica in self._replicas:
            for name, weight in replica.named_parameters():
                if weight.grad is not None:  # a worker may have come too late for any part
                    sums[name] = sums.get(name, 0) + weight.grad.float() / len(parts)
            replica.zero_grad()
        return mean_loss, sums

    def _on_a_free_replica(self, part: Tensor, fraction: Tensor) -> float:
        i = self._free.get()
        try:
            return _backward(self._losses[i], part, fraction)
        finally:
            self._free.put(i)

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)


def _backward(compiled_loss: Callable[[Tensor, Tensor], Tensor], part: Tensor, fraction: Tensor) -> float:
    loss = compiled_loss(part, fraction)
    loss.backward()
    return loss.item()


def _replica(model: Llama) -> Llama:
    replica = copy.deepcopy(model)
    for own, shared in zip(replica.parameters(), model.parameters()):
        own.data = shared.data
    return replica


def _compiled(loss_of: LossOf, model: Llama) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(part: Tensor, fraction: Tensor) -> Tensor:
        return loss_of(model, part, fraction)

    if shutil.which("g++") is None:
        print("no g++: training runs uncompiled, at about half the speed", file=sys.stderr)
        return loss
    return torch.compile(loss, dynamic=False)
