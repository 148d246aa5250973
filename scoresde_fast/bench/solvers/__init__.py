# SPDX-License-Identifier: Apache-2.0
"""Every solver on one model under one protocol: quality against network evaluations and against time."""
