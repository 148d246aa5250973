# SPDX-License-Identifier: Apache-2.0
"""Two benchmarks: the speed of sampling, and the comparison of solvers.

Sampling: `workload`, `baselines`, `variants`, `sampling`. Solvers: `candidates`, `measures`, `ranking`, `comparison`.
Both: `timing`, `results`, `charts`, `pages`.
"""
