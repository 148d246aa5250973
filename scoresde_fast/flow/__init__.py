# SPDX-License-Identifier: Apache-2.0
"""The probability flow: its drift, ODE integration, latent codes and likelihoods; and adaptive samplers."""
