# SPDX-License-Identifier: Apache-2.0
"""Measurement operators against their own matrices, built column by column; the test that finds wrong ones."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from scoresde_fast.conditions.operators import (
    Blur,
    Gray,
    LinearOperator,
    Mask,
    Separable,
    SuperResolution,
    require_adjoint,
    ridge_inverse,
)
from scoresde_fast.conditions.operators.linear import conjugate_gradients
from scoresde_fast.loop.capture_safety import require_capturable

SHAPE = (3, 8, 12)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


OPERATORS: dict[str, Any] = {
    "box": Mask.box(SHAPE, 2, 3, 5, 4),
    "random": Mask.random(SHAPE, 0.4, seed=1),
    "channels": Mask(numbers(*SHAPE) > 0),
    "all-known": Mask(torch.ones(SHAPE[1:])),
    "all-unknown": Mask(torch.zeros(1, *SHAPE[1:])),
    "gray": Gray(),
    "half": SuperResolution(2),
    "quarter": SuperResolution(4),
    "blur": Blur(0.6),
    # Its least singular values are below the cutoff, and it is mirrored more than once.
    "strong-blur": Blur(2.5, radius=30),
    "wide": Separable(numbers(10, 8), numbers(5, 12, seed=1)),
    "deficient": Separable(numbers(6, 2) @ numbers(2, 8), numbers(9, 12)),
    "nothing": Separable(torch.zeros(6, 8), numbers(9, 12)),
}


@pytest.fixture(params=OPERATORS, ids=str)
def operator(request: pytest.FixtureRequest) -> Any:
    return OPERATORS[request.param]


def dense(operator: LinearOperator) -> Tensor:
    """A as a matrix, from its columns."""
    basis = torch.eye(int(np.prod(SHAPE)), dtype=torch.float64).view(-1, *SHAPE)
    return operator.apply(basis).flatten(1).mT


def cutoff(operator: Any) -> float:
    return getattr(operator, "cutoff", 1e-12)


def solved(matrix: Tensor, measured: Tensor, ridge: float, cutoff: float = 1e-12) -> Tensor:
    """A^T (A A^T + ridge I)^-1 y by dense linear algebra: (B, N) of (B, M)."""
    if not ridge:
        return measured @ torch.linalg.pinv(matrix, rtol=cutoff).mT
    system = matrix @ matrix.mT + ridge * torch.eye(len(matrix), dtype=torch.float64)
    return torch.linalg.solve(system, measured.mT).mT @ matrix


def apart(made: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return float((made.flatten(1) - expected.flatten(1)).abs().max() / expected.abs().max().clamp(min=1e-30))


def test_dense(operator: Any) -> None:
    """Forward, adjoint and pseudo-inverse are those of the matrix, in shape too, and what they make is contiguous."""
    matrix, images = dense(operator), numbers(2, *SHAPE)
    seen = operator.apply(images)
    measured = numbers(*seen.shape, seed=3)
    assert seen.shape == (2, *operator.measured_shape(SHAPE)) == (2, *operator.measured_shape(list(SHAPE)))
    assert apart(seen, images.flatten(1) @ matrix.mT) < 1e-12
    assert apart(operator.adjoint(measured), measured.flatten(1) @ matrix) < 1e-12
    assert apart(operator.pseudo_inverse(measured), solved(matrix, measured.flatten(1), 0, cutoff(operator))) < 1e-10
    for made in (seen, operator.adjoint(measured), operator.pseudo_inverse(measured)):
        assert made.is_contiguous() and made.dtype == torch.float64


@pytest.mark.parametrize("relative", [0, 1e-4, 0.3, 50.0])
def test_ridge_inverse(operator: Any, relative: float) -> None:
    """The closed form is the dense solution, with one ridge for all and with one for each sample."""
    matrix = dense(operator)
    ridge = relative * (float(torch.linalg.matrix_norm(matrix, 2)) ** 2 or 1)
    measured = numbers(2, *operator.measured_shape(SHAPE))
    expected = solved(matrix, measured.flatten(1), ridge, cutoff(operator))
    one = torch.tensor(ridge, dtype=torch.float64)
    assert apart(ridge_inverse(operator, measured, one), expected) < 1e-10
    each = torch.stack([one, 2 * one + 1]).view(2, 1, 1, 1)
    found = ridge_inverse(operator, measured, each)
    assert apart(found[:1], expected[:1]) < 1e-10
    assert apart(found[1:], solved(matrix, measured[1:].flatten(1), 2 * ridge + 1)) < 1e-10


def test_float32(operator: Any) -> None:
    """In float32 the results are those of float64 to its rounding, times 1 / cutoff in what is inverted."""
    images = numbers(2, *SHAPE)
    seen = operator.apply(images)
    single = seen.float()
    assert operator.apply(images.float()).dtype == torch.float32
    assert apart(operator.apply(images.float()).double(), seen) < 1e-6
    assert apart(operator.adjoint(single).double(), operator.adjoint(seen)) < 1e-6
    inverted = operator.pseudo_inverse(seen), operator.pseudo_inverse(single)
    assert inverted[1].dtype == torch.float32 and apart(inverted[1].double(), inverted[0]) < 6e-4
    ridge = torch.tensor(0.1)
    regular = ridge_inverse(operator, seen, ridge.double()), ridge_inverse(operator, single, ridge)
    assert regular[1].dtype == torch.float32 and apart(regular[1].double(), regular[0]) < 1e-5


def test_small_ridge_amplifies_no_more_than_the_cutoff() -> None:
    """With any ridge, nothing grows by more than 1 / (cutoff s)."""
    operator: Any = OPERATORS["strong-blur"]
    measured = numbers(4, *SHAPE)
    for ridge in (0, 1e-30, 1e-12, 1e-9, 1e-6):
        grown = ridge_inverse(operator, measured, torch.tensor(ridge, dtype=torch.float64))
        assert (grown.flatten(1).norm(dim=1) <= measured.flatten(1).norm(dim=1) / operator.cutoff).all()


@pytest.mark.parametrize("ridge", [0, 0.01, 0.3, 50.0])
@pytest.mark.parametrize("name", ["box", "all-unknown", "gray", "quarter", "wide", "blur"])
def test_conjugate_gradients(name: str, ridge: float) -> None:
    """Through apply and adjoint alone the solution is the dense one, as near to it as the condition number lets it."""
    operator = OPERATORS[name]
    matrix, measured = dense(operator), numbers(2, *operator.measured_shape(SHAPE))
    values = torch.linalg.svdvals(matrix).square()
    values = values[values > 1e-12 * values.max()] + ridge
    root = float((values.max() / values.min()).sqrt()) if len(values) else 1.0
    bound = 2 * ((root - 1) / (root + 1)) ** 30
    expected = solved(matrix, measured.flatten(1), ridge)
    error = conjugate_gradients(operator, measured, torch.tensor(ridge, dtype=torch.float64)).flatten(1) - expected

    def energy(images: Tensor) -> Tensor:
        return ((images @ matrix.mT).square().sum(1) + ridge * images.square().sum(1)).sqrt()

    assert (energy(error) <= (bound + 1e-12) * energy(expected)).all()


def test_conjugate_gradients_stop_at_rounding() -> None:
    """Steps beyond the solution leave it where it is, whatever part of y no image has, and in float32 too."""
    for name in ("box", "half", "deficient"):
        operator = OPERATORS[name]
        measured = numbers(2, *operator.measured_shape(SHAPE))
        expected = operator.pseudo_inverse(measured)
        for steps in (60, 300):
            found = conjugate_gradients(operator, measured.float(), torch.tensor(0.0), steps)
            assert apart(found.double(), expected) < 1e-3


class Own:
    """A user's operator: the differences of neighbours in a row, flattened, with no closed form of a ridge inverse."""

    def apply(self, images: Tensor) -> Tensor:
        return images.diff(dim=-1).flatten(1)

    def adjoint(self, measured: Tensor) -> Tensor:
        images = torch.zeros(len(measured), *SHAPE, dtype=measured.dtype)
        return torch.func.vjp(self.apply, images)[1](measured)[0]

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        sums = measured.view(-1, SHAPE[0], SHAPE[1], SHAPE[2] - 1).cumsum(-1)
        sums = torch.nn.functional.pad(sums, (1, 0))
        return sums - sums.mean(-1, keepdim=True)


def test_own_operator() -> None:
    """Three methods are enough: it passes, measures in its own shape, and has a ridge inverse, one for each sample."""
    operator = Own()
    require_adjoint(operator, SHAPE, "cpu")
    measured = numbers(2, 3 * 8 * 11)
    ridges = torch.tensor([0.2, 3.0], dtype=torch.float64)
    found = ridge_inverse(operator, measured, ridges.view(2, 1))
    for index, ridge in enumerate(ridges):
        expected = solved(dense(operator), measured[index : index + 1], float(ridge))
        assert apart(found[index : index + 1], expected) < 1e-4


def test_gradients(operator: Any) -> None:
    """The gradient of apply is the adjoint, also after a first call without gradients; those of the inverses flow."""
    with torch.inference_mode():
        fresh = pickle.loads(pickle.dumps(operator))
        fresh.apply(numbers(1, *SHAPE))
    images = numbers(2, *SHAPE).requires_grad_()
    seen = fresh.apply(images)
    measured = numbers(*seen.shape, seed=3)
    (gradient,) = torch.autograd.grad(seen, images, measured)
    assert apart(gradient, operator.adjoint(measured)) < 1e-12
    for inverse in (fresh.pseudo_inverse, lambda y: ridge_inverse(fresh, y, torch.tensor(0.5, dtype=torch.float64))):
        (gradient,) = torch.autograd.grad(inverse(fresh.apply(images)), images, images.detach())
        assert gradient.isfinite().all()
    other = pickle.loads(pickle.dumps(operator))
    pull = torch.func.vjp(other.apply, images.detach())[1]
    assert apart(pull(measured)[0], operator.adjoint(measured)) < 1e-12
    assert torch.equal(other.apply(images.detach()), operator.apply(images.detach()))


def test_capturable(operator: Any) -> None:
    """After a first call nothing is read on the host or copied from it, closed forms and conjugate gradients alike."""

    def calls() -> None:
        measured = operator.apply(images)
        operator.adjoint(measured)
        operator.pseudo_inverse(measured)
        ridge_inverse(operator, measured, ridge)
        conjugate_gradients(operator, measured, ridge, steps=2)

    images, ridge = torch.empty(2, *SHAPE, device="meta"), torch.empty((), device="meta")
    calls()
    require_capturable(calls, "meta")


def test_passes(operator: Any) -> None:
    """Every operator passes its test in both precisions."""
    for dtype in (torch.float32, torch.float64):
        require_adjoint(operator, SHAPE, "cpu", dtype)


def with_method(base: Any, name: str, method: Callable[..., Any]) -> Any:
    """``base`` with another method, which is given the right one and its arguments."""
    right = getattr(base, name)
    return type("Wrong", (), {
        **{each: staticmethod(getattr(base, each)) for each in ("apply", "adjoint", "pseudo_inverse", "ridge_inverse")},
        name: staticmethod(lambda *arguments: method(right, *arguments)),
    })()  # fmt: skip


WRONG: dict[str, tuple[str, str, Callable[..., Any], str]] = {
    "scaled-adjoint": ("half", "adjoint", lambda right, y: 1.001 * right(y), "adjoint is not the adjoint of apply"),
    "pseudo-inverse-as-adjoint": ("gray", "adjoint", lambda right, y: 3 * right(y), "adjoint is not the adjoint"),
    "turned-adjoint": ("wide", "adjoint", lambda right, y: right(y).flip(-1), "adjoint is not the adjoint of apply"),
    "adjoint-of-more": ("box", "adjoint", lambda _, y: y, "adjoint is not the adjoint of apply"),
    "adjoint-of-noise": ("half", "adjoint", lambda right, y: right(y * float("nan")), "<A x, y> is"),
    "affine": ("blur", "apply", lambda right, x: right(x) + 0.1, "apply is not linear"),
    "absolute": ("quarter", "apply", lambda right, x: right(x).abs(), "apply is not linear"),
    "adjoint-as-inverse": ("half", "pseudo_inverse", lambda right, y: right(y) / 4, "pseudo_inverse is not that of"),
    "oblique-inverse": (
        "half",
        "pseudo_inverse",
        lambda right, y: right(y) * torch.tensor([1.5, 0.5]).to(y).repeat(6),
        "Moore-Penrose",
    ),
    "other-ridge": ("gray", "ridge_inverse", lambda right, y, ridge: right(y, ridge.sqrt()), "ridge_inverse is not"),
    "batch-lost": ("gray", "apply", lambda right, x: right(x).sum(0), "apply of a batch of 2 gives shape (1, 8, 12)"),
    "no-tensor": ("gray", "apply", lambda right, x: [right(x)], "apply of a batch of 2 gives a list"),
    "flat-adjoint": (
        "gray",
        "adjoint",
        lambda right, y: right(y).flatten(1),
        "must return images, (2, 3, 8, 12)",
    ),
    "flat-inverse": ("gray", "pseudo_inverse", lambda right, y: right(y)[:, :1], "pseudo_inverse gives shape (2, 1, 8"),
    "dtype": ("gray", "apply", lambda right, x: right(x).double(), "torch.float64 on cpu of torch.float32 on cpu"),
}


@pytest.mark.parametrize("name", WRONG)
def test_finds(name: str) -> None:
    """Each common mistake is found, and the message names it."""
    base, method, wrong, message = WRONG[name]
    with pytest.raises(ValueError) as caught:
        require_adjoint(with_method(OPERATORS[base], method, wrong), SHAPE, "cpu")
    assert message in str(caught.value)


def test_dot_test_names_both_numbers() -> None:
    """The numbers of the sentence are the two sides: here one is three times the other."""
    wrong = with_method(Gray(), "adjoint", lambda right, y: 3 * right(y))
    with pytest.raises(ValueError, match=r"<A x, y> is (\S+) and <x, A\^T y> (\S+),.*torch\.func\.vjp") as caught:
        require_adjoint(wrong, SHAPE, "cpu")
    words = str(caught.value).replace(",", "").split()
    ours, theirs = float(words[words.index("is", 5) + 1]), float(words[words.index("which") - 1])
    assert theirs == pytest.approx(3 * ours, rel=1e-5)


def test_missing_method() -> None:
    """A class without an adjoint is refused before anything runs."""
    with pytest.raises(ValueError, match="has no method 'adjoint'"):
        require_adjoint(type("Half", (), {"apply": lambda self, images: images})(), SHAPE, "cpu")


def test_mask() -> None:
    """A box is unknown; a random mask has its share in all channels alike, by its seed; unknown pixels may be NaN."""
    box = torch.ones(8, 12)
    box[2:7, 3:7] = 0
    ones = torch.ones(1, *SHAPE)
    assert torch.equal(Mask.box(SHAPE, 2, 3, 5, 4).apply(ones), box.expand(1, *SHAPE))
    known = [Mask.random(SHAPE, share, seed=5).apply(ones) for share in (0.25, 0.5)]
    assert [int(mask.sum()) for mask in known] == [3 * 24, 3 * 48] and torch.equal(known[0] * known[1], known[0])
    assert torch.equal(known[0][:, 0], known[0][:, 1])
    assert torch.equal(Mask.random((8, 12), 0.25, seed=5).apply(ones), known[0])
    assert not torch.equal(Mask.random(SHAPE, 0.25, seed=6).apply(ones), known[0])
    assert [float(Mask.random(SHAPE, share, 0).apply(ones).mean()) for share in (0, 1)] == [0, 1]
    measured = torch.where(box.bool(), 0.5, torch.nan).expand(1, *SHAPE)
    for made in (Mask(box).adjoint(measured), Mask(box).ridge_inverse(measured, torch.tensor(1.0))):
        assert made.isfinite().all()


def test_values() -> None:
    """Gray is the mean of the channels, super-resolution that of blocks, the blur SciPy's with its mirrored border."""
    images = numbers(2, *SHAPE)
    assert apart(Gray().apply(images), images.mean(1)) < 1e-12
    blocks = images.view(2, 3, 4, 2, 6, 2).mean((3, 5))
    assert apart(SuperResolution(2).apply(images), blocks) < 1e-12
    for std in (0.6, 2.5, 7.0):
        expected = ndimage.gaussian_filter(images.numpy(), (0, 0, std, std), mode="reflect", truncate=4.0)
        assert apart(Blur(std).apply(images), torch.from_numpy(expected)) < 1e-12
    narrow = ndimage.gaussian_filter(images.numpy(), (0, 0, 2, 2), mode="reflect", radius=(0, 0, 3, 3))
    assert apart(Blur(2, radius=3).apply(images), torch.from_numpy(narrow)) < 1e-12


def test_any_size_in_threads() -> None:
    """One operator serves images of several sizes at a time, each as if it were alone."""
    operator, sizes = Blur(1.1), [(8, 12), (12, 8), (5, 7), (16, 16)] * 4
    images = [numbers(1, 2, *size) for size in sizes]
    alone = [Blur(1.1).pseudo_inverse(image) for image in images]
    made: list[Tensor | None] = [None] * len(sizes)

    def work(index: int) -> None:
        made[index] = operator.pseudo_inverse(images[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(sizes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A thread may decompose otherwise: to rounding, times 1 / cutoff.
    assert all(found is not None and apart(found, one) < 1e-10 for found, one in zip(made, alone, strict=True))


def test_describe() -> None:
    """A description holds everything that decides the result, in plain values, and nothing else."""
    mask = numbers(8, 12) > 0
    alike = [Mask(mask), Mask(mask[None]), Mask(mask.float()), Mask(mask.mT.contiguous().mT)]
    assert all(one.describe() == alike[0].describe() for one in alike)
    other: list[Mask | Gray | SuperResolution | Blur | Separable] = [
        *(Mask(~mask), Mask(mask.expand(3, 8, 12)), Mask(mask.view(12, 8)), Gray(), Gray(2), SuperResolution(2)),
        *(SuperResolution(4), Blur(1), Blur(2), Blur(1, radius=2), Blur(1, cutoff=1e-5)),
        *(Separable(torch.eye(3), torch.eye(4)), Separable(torch.eye(3), 2 * torch.eye(4))),
    ]
    described = [repr(one.describe()) for one in (alike[0], *other)]
    assert len(set(described)) == len(described)
    assert repr(Mask.box(SHAPE, 0, 0, 2, 2)) == "Mask(1 x 8 x 12, 92 of 96 known)"
    assert repr(SuperResolution(2)) == "SuperResolution(factor=2)" and repr(Gray()) == "Gray(channels=3)"
    assert repr(Blur(1)) == "Blur(std=1, radius=4)" and repr(OPERATORS["wide"]) == "Separable(8 x 12 to 10 x 5)"


IMAGES = torch.zeros(2, *SHAPE)
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "mask-values": (lambda: Mask(torch.full((8, 12), 0.5)), "mask has values other than 0 and 1"),
    "mask-shape": (lambda: Mask(torch.ones(1, 2, 1, 8, 12)), "it must be (H, W), (1, H, W) or (C, H, W)"),
    "mask-count": (lambda: Mask(torch.ones(3, 1, 8, 12)).apply(IMAGES), "there are 3 masks and"),
    "mask-size": (lambda: Mask(torch.ones(8, 8)).apply(IMAGES), "make a mask of shape (8, 12), (1, 8, 12) or (3, 8"),
    "mask-channels": (lambda: Mask(torch.ones(2, 8, 12)).measured_shape(SHAPE), "the mask is (2, 8, 12) and"),
    "box-outside": (lambda: Mask.box(SHAPE, 4, 0, 5, 2), "a box of 5 x 2 pixels at row 4 and column 0 is not within"),
    "box-empty": (lambda: Mask.box(SHAPE, 4, 0, 0, 2), "a height and width of at least 1"),
    "share": (lambda: Mask.random(SHAPE, 40, 0), "known is 40; it must be the share of known pixels, from 0 to 1"),
    "channels": (lambda: Gray(0), "channels is 0; it must be a whole number of at least 1"),
    "gray-images": (lambda: Gray(1).apply(IMAGES), "make it as Gray(3)"),
    "gray-measured": (lambda: Gray().adjoint(IMAGES), "gray has one: take the mean"),
    "factor": (lambda: SuperResolution(1), "factor is 1; it must be a whole number of at least 2"),
    "factor-kind": (lambda: SuperResolution(2.0), "factor is 2.0; it must be a whole number"),  # type: ignore[arg-type]  # the mistake under test
    "division": (lambda: SuperResolution(3).apply(IMAGES), "8 pixels in a row or column has no means over 3; choose"),
    "std": (lambda: Blur(0), "std is 0; it must be a finite number of pixels above 0"),
    "std-nan": (lambda: Blur(float("nan")), "std is nan"),
    "radius": (lambda: Blur(1, radius=0), "radius is 0; it must be a whole number of at least 1"),
    "cutoff": (lambda: Blur(1, cutoff=0.1), "cutoff is 0.1; it must be above 0 and at most 0.001"),
    "separable-cutoff": (lambda: Separable(torch.eye(2), torch.eye(2), 0), "cutoff is 0; it must be above 0"),
    "matrix": (lambda: Separable(torch.ones(3), torch.eye(2)), "rows has shape (3,); it must be a matrix"),
    "infinite": (lambda: Separable(torch.eye(3), torch.eye(3) / 0), "columns has shape (3, 3); it must be a matrix of"),
    "separable-images": (lambda: OPERATORS["wide"].apply(IMAGES[..., 1:]), "it must be (B, C, 8, 12)"),
    "separable-measured": (lambda: OPERATORS["wide"].adjoint(IMAGES), "it must be (B, C, 10, 5)"),
    "separable-shape": (lambda: OPERATORS["wide"].measured_shape((3, 8, 8)), "this operator takes 8 x 12 pixels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str) -> None:
    """Wrong arguments are refused with the value and the remedy."""
    call, message = REFUSED[name]
    with pytest.raises(ValueError) as caught:
        call()
    assert message in str(caught.value)
