# SPDX-License-Identifier: Apache-2.0
"""Conditions: projection onto known pixels, guidance by measurements or classes, and the seeds that they belong to."""
