# SPDX-License-Identifier: Apache-2.0
"""What sampling costs, against what a competent user would write: measured, kept as JSON, shown as one page."""
