# SPDX-License-Identifier: Apache-2.0
"""Random faults of every kind, and what the package does about them; `benchmarks.faults` runs them."""
