"""Rotations that spread what is large in a few places over all: they make rows fit for 8 bits and change no product.

A product of rows and weights stays what it was when both are turned alike (QuaRot, Ashkboos et al. 2024).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.floating[Any]]

# Larger blocks spread more, and take more time.
BLOCK = 32


def block_of(width: int) -> int:
    """How many numbers of a row of `width` are turned together: a power of two that divides it."""
    return min(BLOCK, width & -width)


def in_blocks(weights: "Array", block: int) -> "Array":
    """Weights [K, N] for inputs that are turned by `hadamard` in blocks."""
    import numpy as np

    width, results = weights.shape
    turned: Array = np.einsum("ij,bjn->bin", hadamard(block), weights.reshape(-1, block, results))
    return turned.reshape(width, results)


def orthogonal(size: int) -> "Array":
    """A random orthogonal matrix [size, size], always the same one (Stewart 1980)."""
    import numpy as np

    factor, signs = np.linalg.qr(np.random.default_rng(0).standard_normal((size, size)))
    turn: Array = factor * np.sign(np.diag(signs))
    return turn


def hadamard(size: int) -> "Array":
    """Sylvester's Hadamard matrix [size, size], orthonormal; `size` is a power of two. It is its own inverse."""
    import numpy as np

    matrix: Array = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    matrix *= size**-0.5
    return matrix
