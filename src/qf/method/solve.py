"""From rows to a change of W: Eq. 3, and its joint, weighted, ridge form. Knows only tensors.

Legend. Tokens are rows here, where the paper writes them as columns:

    W      (N, D)  the weight of the layer's output projection, y = W u + v
    K      (n, D)  keys: the closed-book u', one row per learned token
    R      (n, N)  deltas: y - y', open-book output minus closed-book output
    s      (n,)    significance of the rows
    C      (D, D)  what to protect: second moment of keys in ordinary traffic
    λ              ridge, relative to the mean of k C⁻¹ kᵀ over the rows

All sums are taken in float64: the rows are few, and a Gram matrix in bfloat16 loses a third of
what it constrains. Inputs are never changed. W is read and written in blocks of rows, so that no
float64 copy of it ever exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from qf.errors import ModelError

# Singular values below this part of the largest count as zero: rows are recorded in float32, where
# one that repeats another does so to about 1e-7.
RANK_TOLERANCE = 1e-6
# Below this ridge the normal equations, whose condition is squared, would lose digits.
SMALL_RIDGE = 1e-8
BLOCK = 1 << 19  # elements of W that are held in float64 at a time: 4 MB


@dataclass(frozen=True)
class Update:
    """ΔW = B @ A, with B: (N, n) the deltas themselves and A: (n, D) the joint right factor.

    Column j of B is row j's delta and nothing else. So B[:, rows] @ A[rows] over the rows of one
    fact is an adapter of its own, and the adapters of all facts add up to exactly the joint ΔW.
    """

    B: Tensor
    A: Tensor

    @property
    def rank(self) -> int:
        """The number of rows n, the rank of a LoRA adapter that holds ΔW."""
        return self.A.shape[0]

    def apply(self, W: Tensor) -> Tensor:
        """Return W + B @ A in W's dtype and on W's device, for W: (N, D), which stays as it is."""
        assert W.shape == (self.B.shape[0], self.A.shape[1])
        dtype = _widest(W.device)
        B, A = self.B.to(W.device, dtype), self.A.to(W.device, dtype)
        changed = torch.empty_like(W)
        for rows in _blocks(W):
            changed[rows] = torch.addmm(W[rows].to(dtype), B[rows], A)
        return changed


def paper(W: Tensor, u: Tensor, v: Tensor, u_closed: Tensor, v_closed: Tensor) -> Tensor:
    """Return W' by Eq. 3 in W's dtype: the smallest change that answers closed-book as open-book.

        W' = W - (W (u' - u) + (v' - v)) (u'ᵀ u')⁻¹ u'ᵀ

    u: (T, D) and v: (T, N) are of the open-book pass, u_closed and v_closed, the paper's u' and
    v', of the closed-book pass; W: (N, D). A pseudo-inverse stands in for the inverse: the same
    where that exists, and rows that repeat do no harm.
    """
    R = project(W, _exact(u) - _exact(u_closed)) + (_exact(v) - _exact(v_closed))
    return joint(u_closed, R).apply(W)


def joint(
    keys: Tensor,
    deltas: Tensor,
    *,
    significance: Tensor | None = None,
    C: Tensor | None = None,
    whiten: Callable[[Tensor], Tensor] | None = None,
    ridge: float = 0.0,
) -> Update:
    """Return the smallest weighted change that answers all rows: keys (n, D), deltas (n, N).

        ΔW = argmin ‖ΔW C^½‖² + λ⁻¹ Σ_j s_j ‖ΔW k_j - r_j‖²
           = Rᵀ (K C⁻¹ Kᵀ + λ S⁻¹)⁻¹ K C⁻¹

    C None is the identity. The map x -> x C^-½ may be given instead, as `whiten`, for a C that is
    not kept as a matrix. Significance (n,) None counts each row 1; 0 drops a row. Ridge 0 is
    the limit λ → 0: rows that can be answered together are answered exactly, contradictory ones
    in the sense of weighted least squares. One row or more rows than D, all are welcome.

    Raises ModelError when C is not symmetric positive definite.
    """
    assert len(keys) == len(deltas) and ridge >= 0
    K, R = _exact(keys), _exact(deltas)
    s = torch.ones(len(K)).to(K) if significance is None else _exact(significance).to(K)
    assert s.shape == (len(K),) and bool((s >= 0).all())
    A, used = torch.zeros_like(K), s > 0
    if not used.any():
        return Update(R.T, A)

    before = after = whiten or _same
    if C is not None:
        L = cholesky(C).to(K)
        before, after = _by_lower(L), _by_upper(L.T)
    weight = s[used].sqrt()[:, None]
    whitened = before(K[used])  # K C^-½
    size = whitened.square().sum(1).mean().item()
    exact = ridge * size <= SMALL_RIDGE * size  # also when all keys are zero
    A[used] = after(weight * _right_factor(weight * whitened, ridge * size, exact))
    return Update(R.T, A)


def project(W: Tensor, u: Tensor) -> Tensor:
    """Return u Wᵀ: (T, N) in float64 for u: (T, D) and W: (N, D), on the device of u."""
    dtype = _widest(W.device)
    x = u.to(W.device, dtype)
    product = torch.empty(len(u), len(W), dtype=dtype, device=W.device)
    for rows in _blocks(W):
        product[:, rows] = x @ W[rows].to(dtype).T
    return _exact(product.to(u.device))


def cholesky(C: Tensor) -> Tensor:
    """Return the lower triangular L: (D, D) in float64 with L Lᵀ = C.

    Raises ModelError when C is not symmetric positive definite.
    """
    symmetric = all(torch.allclose(C[rows], C[:, rows].T, rtol=1e-4) for rows in _blocks(C))
    L, failed = torch.linalg.cholesky_ex(_exact(C))
    if not symmetric or failed.item() or not torch.isfinite(L.diagonal()).all():
        raise ModelError(
            "The second moment of ordinary traffic is not symmetric positive definite: calibrate"
            " on more text, or add a part of its mean diagonal."
        )
    return L


def _right_factor(K: Tensor, penalty: float, exact: bool) -> Tensor:
    """Return (K Kᵀ + λ)⁻¹ K = K (Kᵀ K + λ)⁻¹: (n, D), the pseudo-inverse of Kᵀ for λ = 0."""
    n, D = K.shape
    if exact:
        U, σ, Vh = torch.linalg.svd(K, full_matrices=False)
        σ = torch.where(σ > RANK_TOLERANCE * σ[0], σ, torch.inf)
        return (U / (σ + penalty / σ)) @ Vh
    if n <= D:
        gram = K @ K.T
        gram.diagonal().add_(penalty)
        return torch.cholesky_solve(K, torch.linalg.cholesky(gram))
    moment = K.T @ K
    moment.diagonal().add_(penalty)
    return torch.cholesky_solve(K.T, torch.linalg.cholesky(moment)).T


def _same(x: Tensor) -> Tensor:
    return x


def _by_lower(L: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.linalg.solve_triangular(L, x.T, upper=False).T


def _by_upper(U: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.linalg.solve_triangular(U, x.T, upper=True).T


def _blocks(W: Tensor) -> Iterator[slice]:
    """Cut the rows of W into blocks of about BLOCK elements."""
    step = max(1, BLOCK // max(1, W.shape[1]))
    return (slice(first, first + step) for first in range(0, W.shape[0], step))


def _widest(device: torch.device) -> torch.dtype:
    """The most exact type of a device: Apple's graphics processors have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def _exact(x: Tensor) -> Tensor:
    """Return x in float64, on the CPU where its own device has none."""
    return x.to("cpu" if x.device.type == "mps" else x.device, torch.float64)
