# SPDX-License-Identifier: Apache-2.0
"""Conditions: what samples of an unconditional model are held to, or guided by, inside the loop."""
