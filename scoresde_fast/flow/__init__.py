# SPDX-License-Identifier: Apache-2.0
"""The probability flow: its drift, ODE integrators, and what runs them for samples, latent codes and likelihoods."""
