# SPDX-License-Identifier: Apache-2.0
"""Solvers of other libraries, run on the same network, times, start and budgets as those of this package.

`method` defines a peer and what it asks of the network, `diffusers` and `k_diffusion` list the peers of each library,
`predictions` evaluates a network for them, and `cases` combines them with time grids: candidates of the comparison, and
cases for studies.
"""
