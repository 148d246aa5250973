# SPDX-License-Identifier: Apache-2.0
"""Studies of samplers, networks and sample sets; the documents show their figures and pictures."""
