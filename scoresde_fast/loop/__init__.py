# SPDX-License-Identifier: Apache-2.0
"""Running a table of steps: eager, compiled or captured, on one device, with or without conditions."""
