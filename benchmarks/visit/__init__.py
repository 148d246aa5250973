# SPDX-License-Identifier: Apache-2.0
"""The visit to a GPU: its items, what is prepared for it, and its rehearsal without a GPU."""
