# SPDX-License-Identifier: Apache-2.0
"""Studies of whole samplers, networks and sample sets, whose figures and pictures the documents show."""
