# SPDX-License-Identifier: Apache-2.0
"""Measurements behind the published figures, each run as ``python -m benchmarks.NAME`` from the checkout."""
