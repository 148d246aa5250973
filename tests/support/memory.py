# SPDX-License-Identifier: Apache-2.0
"""Measurement of a process's memory, for code that tests run in another process."""

PEAK = """
import re, resource

def peak_megabytes():
    # Linux's ru_maxrss also counts the process that started this one.
    try:
        with open("/proc/self/status") as status:
            return int(re.search(r"VmHWM:\\s*(\\d+)", status.read())[1]) / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
"""
"""Code that defines ``peak_megabytes()``, the largest memory that the process has had."""
