"""The method written a second time, in float64 and without any of the project's code: what the tests compare with."""

from __future__ import annotations

import numpy as np
import torch

FLOOR = 1e-3


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def tensor_seed(seed: int, name: str) -> int:
    value = 14695981039346656037 ^ seed
    for byte in name.encode("utf-8"):
        value ^= byte
        value = value * 1099511628211 % 2**64
    return value % 2**63


def uniform(shape: tuple[int, ...], seed: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator).double().numpy()


def mask(logits: torch.Tensor, kind: str, name: str, *, threshold: float, seed: int, temperature: float) -> np.ndarray:
    alpha = logits.double().numpy()
    if kind == "soft":
        return sigmoid(alpha)
    if kind == "binary":
        return (sigmoid(alpha) >= threshold).astype(float)
    u = uniform(alpha.shape, tensor_seed(seed, name))
    if kind == "sampled":
        return (u < sigmoid(alpha)).astype(float)
    return sigmoid((alpha + np.log(u) - np.log1p(-u)) / temperature)


def ties(vectors: np.ndarray, density: float) -> np.ndarray:
    """Element by element, in plain Python."""
    tasks, rows, columns = vectors.shape
    kept = np.zeros_like(vectors)
    count = max(1, round(density * rows * columns))
    for t in range(tasks):
        magnitudes = sorted((abs(x) for x in vectors[t].ravel()), reverse=True)
        border = magnitudes[count - 1]
        for i in range(rows):
            for j in range(columns):
                if abs(vectors[t, i, j]) >= border:
                    kept[t, i, j] = vectors[t, i, j]
    out = np.zeros((rows, columns))
    for i in range(rows):
        for j in range(columns):
            sign = np.sign(sum(kept[t, i, j] for t in range(tasks)))
            out[i, j] = sum(kept[t, i, j] for t in range(tasks) if np.sign(kept[t, i, j]) == sign and sign != 0)
    return out


def effective(
    logits: torch.Tensor,
    aligned: torch.Tensor | None,
    tasks: list[torch.Tensor],
    *,
    kind: str,
    name: str,
    fusion: str,
    weights: list[float],
    density: float = 0.2,
    drop_rate: float = 0.2,
    fusion_seed: int = 0,
    threshold: float = 0.5,
    seed: int = 0,
    temperature: float = 0.5,
    rescale: bool = True,
) -> np.ndarray:
    """theta_safe + fuse_t(lambda_t * (m * delta_t) / mean(m)), from the task vectors' sources."""
    safe = 0.0 if aligned is None else aligned.double().numpy()
    m = mask(logits, kind, name, threshold=threshold, seed=seed, temperature=temperature)
    shape = tuple(tasks[0].shape)
    full = np.broadcast_to(m, shape)
    mean = max(full.mean(), FLOOR) if rescale else 1.0
    vectors = np.stack([w * full * (t.double().numpy() - safe) / mean for w, t in zip(weights, tasks, strict=True)])
    if fusion == "task_arithmetic":
        fused = vectors.sum(0)
    elif fusion == "average":
        fused = vectors.mean(0)
    elif fusion == "ties":
        fused = ties(vectors, density)
    else:
        keeps = [uniform(shape, tensor_seed(fusion_seed, f"{name}#{t}")) >= drop_rate for t in range(len(tasks))]
        fused = sum(v * k / (1.0 - drop_rate) for v, k in zip(vectors, keeps, strict=True))
    return safe + fused
