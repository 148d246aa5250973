# SPDX-License-Identifier: Apache-2.0
"""Noise-conditional classifiers: gradients, and the dependence on noise and on other images."""

from __future__ import annotations

import torch

from scoresde_fast.networks import WideResNet
from tests.support.tiny_recipes import tiny_classifier


def perturbed(network: torch.nn.Module) -> torch.nn.Module:
    """Return the network with perturbed weights; fresh ones have a zero convolution at the end of each block."""
    generator = torch.Generator().manual_seed(1)
    for weight in network.parameters():
        weight.data.add_(0.1 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    return network


def test_gradient_matches_finite_differences() -> None:
    """In float64 the gradient in the image equals the central difference in a random direction."""
    network = perturbed(WideResNet(image_size=(8, 12), in_channels=2, classes=3, widths=(8, 16)).double())
    generator = torch.Generator().manual_seed(0)
    x, direction = torch.randn(2, 4, 2, 8, 12, generator=generator, dtype=torch.float64)
    noise = torch.tensor([1e-3, 0.1, 3.0, 200.0], dtype=torch.float64)
    x = x * (1 + noise)[:, None, None, None]

    def log_p(x: torch.Tensor) -> torch.Tensor:
        return network(x, noise).log_softmax(1)[:, 1]

    x.requires_grad_()
    gradient = torch.autograd.grad(log_p(x).sum(), x)[0]
    with torch.no_grad():
        step = 1e-5 * direction
        difference = (log_p(x + step) - log_p(x - step)) / 2e-5
    torch.testing.assert_close((gradient * direction).flatten(1).sum(1), difference, rtol=1e-6, atol=1e-9)


def test_noise_level_and_independence_of_images() -> None:
    """Probabilities sum to 1, depend on the noise level, and do not depend on other images."""
    classifier = perturbed(tiny_classifier()).double().eval()
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.tensor([0.01, 1.0, 100.0], dtype=torch.float64)
    with torch.no_grad():
        log_p = classifier(x, noise)
        torch.testing.assert_close(log_p.exp().sum(1), torch.ones(3, dtype=torch.float64))
        alone = torch.cat([classifier(x[i : i + 1], noise[i : i + 1]) for i in range(3)])
        # Sums may have another order in another batch: 450 roundings of values of 10.
        torch.testing.assert_close(log_p, alone, rtol=0, atol=1e-12)
        assert (classifier(x, noise.flip(0)) - log_p)[[0, 2]].abs().amax(1).min() > 1e-3
