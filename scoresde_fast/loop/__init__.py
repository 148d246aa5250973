# SPDX-License-Identifier: Apache-2.0
"""Execution of a step table on one device: eager, compiled or captured, with or without conditions."""
