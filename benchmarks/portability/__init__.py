# SPDX-License-Identifier: Apache-2.0
"""Test runs with other versions and other processors' instructions, and the speed of a plain install."""
