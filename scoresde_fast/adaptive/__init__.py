# SPDX-License-Identifier: Apache-2.0
"""Samplers that choose the length of every step by its error, for each sample on its own: "rk45" and "ggf"."""
