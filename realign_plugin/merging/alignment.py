"""The alignment subspace of Safe LoRA (arXiv 2405.16833, section 3.2), which SafeMERGE (arXiv 2503.17239) uses too.

For a module with the alignment vector V = W_aligned - W_unaligned, C = V V^T / |V|_F projects an update D of that
module onto what alignment changed. The cosine measures how far D lies outside: that between D and C D.

Updates are kept as products of thin factors wherever they come from LoRA; no square matrix is built for them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Update:
    """A weight update, ``left @ right``, or ``left`` alone.

    Attributes:
        left: ``[out, k]``, or the whole update ``[out, in]``; fp32.
        right: ``[k, in]``, or None.
    """

    left: Tensor
    right: Tensor | None = None

    def dense(self) -> Tensor:
        """The update itself, ``[out, in]``."""
        return self.left if self.right is None else self.left @ self.right

    def norm(self) -> float:
        """Frobenius norm."""
        return math.sqrt(max(inner(self, self), 0.0))


def inner(one: Update, two: Update) -> float:
    """Inner product of two updates that have the same right factor, or none."""
    if one.right is None or two.right is None:
        return float((one.dense().double() * two.dense().double()).sum())
    gram = one.right.double() @ two.right.double().T
    return float(((one.left.double().T @ two.left.double()) * gram).sum())


def difference(one: Update, two: Update) -> Update:
    """One update minus another; thin where both are."""
    if one.right is None or two.right is None:
        return Update(one.dense() - two.dense())
    return Update(torch.cat([one.left, -two.left], dim=1), torch.cat([one.right, two.right], dim=0))


def project(alignment: Update, update: Update) -> Update:
    """C D with C = V V^T / |V|_F.

    Args:
        alignment: V, not zero.
        update: D.

    Returns:
        The projection, with the right factor of D.
    """
    thin = update.left
    if alignment.right is None:
        moved = alignment.left @ (alignment.left.T @ thin)
    else:
        gram = alignment.right @ alignment.right.T
        moved = alignment.left @ (gram @ (alignment.left.T @ thin))
    return Update(moved / alignment.norm(), update.right)


def cosine(update: Update, projection: Update) -> float:
    """Cosine between an update and its projection; 0 where one of them is zero."""
    norms = update.norm() * projection.norm()
    return inner(update, projection) / norms if norms > 0 else 0.0
