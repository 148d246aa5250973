# SPDX-License-Identifier: Apache-2.0
"""Kernels: their shapes in the networks, their speed on a CPU, and their machine code for GPUs."""
