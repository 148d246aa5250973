# SPDX-License-Identifier: Apache-2.0
"""Measurement operators against dense linear algebra, and `require_adjoint`."""

from __future__ import annotations

import pickle
import re
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
    # Its smallest singular values are below the cutoff, and its padding reflects more than once.
    "strong-blur": Blur(2.5, radius=30),
    "wide": Separable(numbers(10, 8), numbers(5, 12, seed=1)),
    "deficient": Separable(numbers(6, 2) @ numbers(2, 8), numbers(9, 12)),
    "nothing": Separable(torch.zeros(6, 8), numbers(9, 12)),
}


@pytest.fixture(params=OPERATORS, ids=str)
def operator(request: pytest.FixtureRequest) -> Any:
    return OPERATORS[request.param]


def dense(operator: LinearOperator) -> Tensor:
    """Return A as a matrix, column by column."""
    basis = torch.eye(int(np.prod(SHAPE)), dtype=torch.float64).view(-1, *SHAPE)
    return operator.apply(basis).flatten(1).mT


def cutoff(operator: Any) -> float:
    return getattr(operator, "cutoff", 1e-12)


def solved(matrix: Tensor, measured: Tensor, ridge: float, cutoff: float = 1e-12) -> Tensor:
    """Return A^T (A A^T + ridge I)^-1 y by dense linear algebra, (B, N) for (B, M)."""
    if not ridge:
        return measured @ torch.linalg.pinv(matrix, rtol=cutoff).mT
    system = matrix @ matrix.mT + ridge * torch.eye(len(matrix), dtype=torch.float64)
    return torch.linalg.solve(system, measured.mT).mT @ matrix


def relative_error(result: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference, relative to the largest expected value."""
    return float((result.flatten(1) - expected.flatten(1)).abs().max() / expected.abs().max().clamp(min=1e-30))


def test_dense(operator: Any) -> None:
    """Forward, adjoint and pseudo-inverse equal those of the dense matrix, and their results are contiguous."""
    matrix, images = dense(operator), numbers(2, *SHAPE)
    applied = operator.apply(images)
    measured = numbers(*applied.shape, seed=3)
    assert applied.shape == (2, *operator.measured_shape(SHAPE)) == (2, *operator.measured_shape(list(SHAPE)))
    assert relative_error(applied, images.flatten(1) @ matrix.mT) < 1e-12
    assert relative_error(operator.adjoint(measured), measured.flatten(1) @ matrix) < 1e-12
    expected = solved(matrix, measured.flatten(1), 0, cutoff(operator))
    assert relative_error(operator.pseudo_inverse(measured), expected) < 1e-10
    for result in (applied, operator.adjoint(measured), operator.pseudo_inverse(measured)):
        assert result.is_contiguous() and result.dtype == torch.float64


@pytest.mark.parametrize("relative", [0, 1e-4, 0.3, 50.0])
def test_ridge_inverse(operator: Any, relative: float) -> None:
    """The ridge inverse equals the dense solution, with one ridge for all samples and with one for each."""
    matrix = dense(operator)
    ridge = relative * (float(torch.linalg.matrix_norm(matrix, 2)) ** 2 or 1)
    measured = numbers(2, *operator.measured_shape(SHAPE))
    expected = solved(matrix, measured.flatten(1), ridge, cutoff(operator))
    shared = torch.tensor(ridge, dtype=torch.float64)
    assert relative_error(ridge_inverse(operator, measured, shared), expected) < 1e-10
    per_sample = torch.stack([shared, 2 * shared + 1]).view(2, 1, 1, 1)
    inverse = ridge_inverse(operator, measured, per_sample)
    assert relative_error(inverse[:1], expected[:1]) < 1e-10
    assert relative_error(inverse[1:], solved(matrix, measured[1:].flatten(1), 2 * ridge + 1)) < 1e-10


def test_float32(operator: Any) -> None:
    """float32 results agree with float64 to rounding, which the pseudo-inverse amplifies by up to 1 / cutoff."""
    images = numbers(2, *SHAPE)
    applied = operator.apply(images)
    single = applied.float()
    assert operator.apply(images.float()).dtype == torch.float32
    assert relative_error(operator.apply(images.float()).double(), applied) < 1e-6
    assert relative_error(operator.adjoint(single).double(), operator.adjoint(applied)) < 1e-6
    inverted = operator.pseudo_inverse(applied), operator.pseudo_inverse(single)
    assert inverted[1].dtype == torch.float32 and relative_error(inverted[1].double(), inverted[0]) < 6e-4
    ridge = torch.tensor(0.1)
    regular = ridge_inverse(operator, applied, ridge.double()), ridge_inverse(operator, single, ridge)
    assert regular[1].dtype == torch.float32 and relative_error(regular[1].double(), regular[0]) < 1e-5


def test_cutoff_limits_amplification() -> None:
    """With any ridge, norms grow by at most 1 / (cutoff s_max), where s_max is 1 for a blur."""
    operator: Any = OPERATORS["strong-blur"]
    measured = numbers(4, *SHAPE)
    for ridge in (0, 1e-30, 1e-12, 1e-9, 1e-6):
        inverse = ridge_inverse(operator, measured, torch.tensor(ridge, dtype=torch.float64))
        assert (inverse.flatten(1).norm(dim=1) <= measured.flatten(1).norm(dim=1) / operator.cutoff).all()


@pytest.mark.parametrize("ridge", [0, 0.01, 0.3, 50.0])
@pytest.mark.parametrize("name", ["box", "all-unknown", "gray", "quarter", "wide", "blur"])
def test_conjugate_gradients(name: str, ridge: float) -> None:
    """The error against the dense solution is within the bound by the condition number."""
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
    """In float32, further steps do not change the solution, also for a y outside the range of A."""
    for name in ("box", "half", "deficient"):
        operator = OPERATORS[name]
        measured = numbers(2, *operator.measured_shape(SHAPE))
        expected = operator.pseudo_inverse(measured)
        for steps in (60, 300):
            inverse = conjugate_gradients(operator, measured.float(), torch.tensor(0.0), steps)
            assert relative_error(inverse.double(), expected) < 1e-3


class Differences:
    """A user's operator without a closed-form ridge inverse: the flattened differences of neighbours in a row."""

    def apply(self, images: Tensor) -> Tensor:
        return images.diff(dim=-1).flatten(1)

    def adjoint(self, measured: Tensor) -> Tensor:
        images = torch.zeros(len(measured), *SHAPE, dtype=measured.dtype)
        return torch.func.vjp(self.apply, images)[1](measured)[0]

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        sums = measured.view(-1, SHAPE[0], SHAPE[1], SHAPE[2] - 1).cumsum(-1)
        sums = torch.nn.functional.pad(sums, (1, 0))
        return sums - sums.mean(-1, keepdim=True)


def test_user_operator() -> None:
    """Three methods are enough, with any measurement shape, also for a ridge inverse with a ridge per sample."""
    operator = Differences()
    require_adjoint(operator, SHAPE, "cpu")
    measured = numbers(2, 3 * 8 * 11)
    ridges = torch.tensor([0.2, 3.0], dtype=torch.float64)
    inverse = ridge_inverse(operator, measured, ridges.view(2, 1))
    for index, ridge in enumerate(ridges):
        expected = solved(dense(operator), measured[index : index + 1], float(ridge))
        assert relative_error(inverse[index : index + 1], expected) < 1e-4


def test_gradients(operator: Any) -> None:
    """The gradient of apply is the adjoint, also after a call in inference mode; inverses have finite gradients."""
    with torch.inference_mode():
        fresh = pickle.loads(pickle.dumps(operator))
        fresh.apply(numbers(1, *SHAPE))
    images = numbers(2, *SHAPE).requires_grad_()
    applied = fresh.apply(images)
    measured = numbers(*applied.shape, seed=3)
    (gradient,) = torch.autograd.grad(applied, images, measured)
    assert relative_error(gradient, operator.adjoint(measured)) < 1e-12
    for inverse in (fresh.pseudo_inverse, lambda y: ridge_inverse(fresh, y, torch.tensor(0.5, dtype=torch.float64))):
        (gradient,) = torch.autograd.grad(inverse(fresh.apply(images)), images, images.detach())
        assert gradient.isfinite().all()
    other = pickle.loads(pickle.dumps(operator))
    vjp = torch.func.vjp(other.apply, images.detach())[1]
    assert relative_error(vjp(measured)[0], operator.adjoint(measured)) < 1e-12
    assert torch.equal(other.apply(images.detach()), operator.apply(images.detach()))


def test_capturable(operator: Any) -> None:
    """After a first call, closed forms and conjugate gradients neither read on the host nor copy from it."""

    def calls() -> None:
        measured = operator.apply(images)
        operator.adjoint(measured)
        operator.pseudo_inverse(measured)
        ridge_inverse(operator, measured, ridge)
        conjugate_gradients(operator, measured, ridge, steps=2)

    images, ridge = torch.empty(2, *SHAPE, device="meta"), torch.empty((), device="meta")
    calls()
    require_capturable(calls, "meta")


def test_built_in_operators_pass(operator: Any) -> None:
    """Every operator passes `require_adjoint` in both precisions."""
    for dtype in (torch.float32, torch.float64):
        require_adjoint(operator, SHAPE, "cpu", dtype)


def with_method(base: Any, name: str, method: Callable[..., Any]) -> Any:
    """Return ``base`` with one method replaced by ``method(right, *arguments)``, where ``right`` is the original."""
    right = getattr(base, name)
    return type("Wrong", (), {
        **{each: staticmethod(getattr(base, each)) for each in ("apply", "adjoint", "pseudo_inverse", "ridge_inverse")},
        name: staticmethod(lambda *arguments: method(right, *arguments)),
    })()  # fmt: skip


# (operator, replaced method, its replacement, error message)
WRONG: dict[str, tuple[str, str, Callable[..., Any], str]] = {
    "scaled-adjoint": ("half", "adjoint", lambda right, y: 1.001 * right(y), "adjoint is not the adjoint of apply"),
    "pseudo-inverse-as-adjoint": ("gray", "adjoint", lambda right, y: 3 * right(y), "adjoint is not the adjoint"),
    "turned-adjoint": ("wide", "adjoint", lambda right, y: right(y).flip(-1), "adjoint is not the adjoint of apply"),
    "adjoint-of-more": ("box", "adjoint", lambda _, y: y, "adjoint is not the adjoint of apply"),
    "adjoint-of-noise": ("half", "adjoint", lambda right, y: right(y * float("nan")), "<A x, y> is"),
    "affine": ("blur", "apply", lambda right, x: right(x) + 0.1, "apply is not linear"),
    "absolute": ("quarter", "apply", lambda right, x: right(x).abs(), "apply is not linear"),
    "adjoint-as-inverse": ("half", "pseudo_inverse", lambda right, y: right(y) / 4, "pseudo_inverse does not invert"),
    "oblique-inverse": (
        "half",
        "pseudo_inverse",
        lambda right, y: right(y) * torch.tensor([1.5, 0.5]).to(y).repeat(6),
        "Moore-Penrose",
    ),
    "other-ridge": ("gray", "ridge_inverse", lambda right, y, ridge: right(y, ridge.sqrt()), "ridge_inverse is not"),
    "batch-lost": ("gray", "apply", lambda right, x: right(x).sum(0), "apply of a batch of 2 returns shape (1, 8"),
    "no-tensor": ("gray", "apply", lambda right, x: [right(x)], "apply of a batch of 2 returns a list"),
    "flat-adjoint": ("gray", "adjoint", lambda right, y: right(y).flatten(1), "must return images, (2, 3, 8, 12)"),
    "flat-inverse": ("gray", "pseudo_inverse", lambda right, y: right(y)[:, :1], "pseudo_inverse returns shape (2, 1"),
    "dtype": ("gray", "apply", lambda right, x: right(x).double(), "torch.float64 on cpu for torch.float32 on cpu"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes(name: str) -> None:
    """`require_adjoint` detects each common mistake, and the message names it."""
    base, method, wrong, message = WRONG[name]
    with pytest.raises(ValueError) as caught:
        require_adjoint(with_method(OPERATORS[base], method, wrong), SHAPE, "cpu")
    assert message in str(caught.value)


def test_message_has_both_products() -> None:
    """The message has both inner products: here one is three times the other."""
    wrong = with_method(Gray(), "adjoint", lambda right, y: 3 * right(y))
    pattern = r"<A x, y> is (\S+) and <x, A\^T y> is (\S+);.*torch\.func\.vjp"
    with pytest.raises(ValueError, match=pattern) as caught:
        require_adjoint(wrong, SHAPE, "cpu")
    products = re.search(pattern, str(caught.value))
    assert products is not None
    assert float(products[2]) == pytest.approx(3 * float(products[1]), rel=1e-5)


def test_missing_method() -> None:
    """A class without an adjoint is refused before any method runs."""
    with pytest.raises(ValueError, match="has no method 'adjoint'"):
        require_adjoint(type("Half", (), {"apply": lambda self, images: images})(), SHAPE, "cpu")


def test_mask() -> None:
    """Boxes, NaN at unknown pixels, and random masks, which are nested and the same in every channel."""
    box = torch.ones(8, 12)
    box[2:7, 3:7] = 0
    ones = torch.ones(1, *SHAPE)
    assert torch.equal(Mask.box(SHAPE, 2, 3, 5, 4).apply(ones), box.expand(1, *SHAPE))
    known = [Mask.random(SHAPE, fraction, seed=5).apply(ones) for fraction in (0.25, 0.5)]
    assert [int(mask.sum()) for mask in known] == [3 * 24, 3 * 48] and torch.equal(known[0] * known[1], known[0])
    assert torch.equal(known[0][:, 0], known[0][:, 1])
    assert torch.equal(Mask.random((8, 12), 0.25, seed=5).apply(ones), known[0])
    assert not torch.equal(Mask.random(SHAPE, 0.25, seed=6).apply(ones), known[0])
    assert [float(Mask.random(SHAPE, fraction, 0).apply(ones).mean()) for fraction in (0, 1)] == [0, 1]
    measured = torch.where(box.bool(), 0.5, torch.nan).expand(1, *SHAPE)
    for result in (Mask(box).adjoint(measured), Mask(box).ridge_inverse(measured, torch.tensor(1.0))):
        assert result.isfinite().all()


def test_values() -> None:
    """Gray and super-resolution are means over channels and blocks; the blur is SciPy's with mode "reflect"."""
    images = numbers(2, *SHAPE)
    assert relative_error(Gray().apply(images), images.mean(1)) < 1e-12
    blocks = images.view(2, 3, 4, 2, 6, 2).mean((3, 5))
    assert relative_error(SuperResolution(2).apply(images), blocks) < 1e-12
    for std in (0.6, 2.5, 7.0):
        expected = ndimage.gaussian_filter(images.numpy(), (0, 0, std, std), mode="reflect", truncate=4.0)
        assert relative_error(Blur(std).apply(images), torch.from_numpy(expected)) < 1e-12
    narrow = ndimage.gaussian_filter(images.numpy(), (0, 0, 2, 2), mode="reflect", radius=(0, 0, 3, 3))
    assert relative_error(Blur(2, radius=3).apply(images), torch.from_numpy(narrow)) < 1e-12


def test_any_size_in_threads() -> None:
    """One operator applied to several image sizes in several threads gives the results of separate operators."""
    operator, sizes = Blur(1.1), [(8, 12), (12, 8), (5, 7), (16, 16)] * 4
    images = [numbers(1, 2, *size) for size in sizes]
    alone = [Blur(1.1).pseudo_inverse(image) for image in images]
    results: list[Tensor | None] = [None] * len(sizes)

    def work(index: int) -> None:
        results[index] = operator.pseudo_inverse(images[index])

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(sizes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # SVDs in several threads may differ by rounding, which is amplified by up to 1 / cutoff.
    for result, expected in zip(results, alone, strict=True):
        assert result is not None and relative_error(result, expected) < 1e-10


def test_describe() -> None:
    """Descriptions are equal for equal operators, and different for different ones."""
    mask = numbers(8, 12) > 0
    equal = [Mask(mask), Mask(mask[None]), Mask(mask.float()), Mask(mask.mT.contiguous().mT)]
    assert all(operator.describe() == equal[0].describe() for operator in equal)
    different: list[Mask | Gray | SuperResolution | Blur | Separable] = [
        *(Mask(~mask), Mask(mask.expand(3, 8, 12)), Mask(mask.view(12, 8)), Gray(), Gray(2), SuperResolution(2)),
        *(SuperResolution(4), Blur(1), Blur(2), Blur(1, radius=2), Blur(1, cutoff=1e-5)),
        *(Separable(torch.eye(3), torch.eye(4)), Separable(torch.eye(3), 2 * torch.eye(4))),
    ]
    descriptions = [repr(operator.describe()) for operator in (equal[0], *different)]
    assert len(set(descriptions)) == len(descriptions)
    assert repr(Mask.box(SHAPE, 0, 0, 2, 2)) == "Mask(1 x 8 x 12, 92 of 96 known)"
    assert repr(SuperResolution(2)) == "SuperResolution(factor=2)" and repr(Gray()) == "Gray(channels=3)"
    assert repr(Blur(1)) == "Blur(std=1, radius=4)" and repr(OPERATORS["wide"]) == "Separable(8 x 12 to 10 x 5)"


IMAGES = torch.zeros(2, *SHAPE)
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "mask-values": (lambda: Mask(torch.full((8, 12), 0.5)), "mask has values other than 0 and 1"),
    "mask-shape": (lambda: Mask(torch.ones(1, 2, 1, 8, 12)), "it must be (H, W), (1, H, W) or (C, H, W)"),
    "mask-count": (lambda: Mask(torch.ones(3, 1, 8, 12)).apply(IMAGES), "there are 3 masks and"),
    "mask-size": (lambda: Mask(torch.ones(8, 8)).apply(IMAGES), "use a mask of shape (8, 12), (1, 8, 12) or (3, 8"),
    "mask-channels": (lambda: Mask(torch.ones(2, 8, 12)).measured_shape(SHAPE), "the mask has shape (2, 8, 12)"),
    "box-outside": (lambda: Mask.box(SHAPE, 4, 0, 5, 2), "a box of 5 x 2 pixels at row 4 and column 0 is not within"),
    "box-empty": (lambda: Mask.box(SHAPE, 4, 0, 0, 2), "a height and width of at least 1"),
    "share": (lambda: Mask.random(SHAPE, 40, 0), "known is 40; it must be the fraction of known pixels, from 0 to"),
    "channels": (lambda: Gray(0), "channels is 0; it must be an integer of at least 1"),
    "gray-images": (lambda: Gray(1).apply(IMAGES), "use Gray(3)"),
    "gray-measured": (lambda: Gray().adjoint(IMAGES), "but gray has one: take the mean"),
    "factor": (lambda: SuperResolution(1), "factor is 1; it must be an integer of at least 2"),
    "factor-kind": (lambda: SuperResolution(2.0), "factor is 2.0; it must be an integer"),  # type: ignore[arg-type]  # the mistake under test
    "division": (lambda: SuperResolution(3).apply(IMAGES), "image side 8 is not divisible by factor 3; choose"),
    "std": (lambda: Blur(0), "std is 0; it must be a finite number of pixels, greater than 0"),
    "std-nan": (lambda: Blur(float("nan")), "std is nan"),
    "radius": (lambda: Blur(1, radius=0), "radius is 0; it must be an integer of at least 1"),
    "cutoff": (lambda: Blur(1, cutoff=0.1), "cutoff is 0.1; it must be above 0 and at most 0.001"),
    "separable-cutoff": (lambda: Separable(torch.eye(2), torch.eye(2), 0), "cutoff is 0; it must be above 0"),
    "matrix": (lambda: Separable(torch.ones(3), torch.eye(2)), "rows has shape (3,); it must be a matrix"),
    "infinite": (lambda: Separable(torch.eye(3), torch.eye(3) / 0), "columns has shape (3, 3); it must be a matrix of"),
    "separable-images": (lambda: OPERATORS["wide"].apply(IMAGES[..., 1:]), "this operator takes (B, C, 8, 12)"),
    "separable-measured": (lambda: OPERATORS["wide"].adjoint(IMAGES), "this operator takes (B, C, 10, 5)"),
    "separable-shape": (lambda: OPERATORS["wide"].measured_shape((3, 8, 8)), "this operator takes 8 x 12 pixels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str) -> None:
    """The error names the value and the remedy."""
    call, message = REFUSED[name]
    with pytest.raises(ValueError) as caught:
        call()
    assert message in str(caught.value)
