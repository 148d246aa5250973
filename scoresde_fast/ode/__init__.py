# SPDX-License-Identifier: Apache-2.0
"""Runge-Kutta integration of ordinary differential equations on a device, every sample with steps of its own."""

from scoresde_fast.ode.control import Fixed, Tolerances
from scoresde_fast.ode.errors import IntegrationError
from scoresde_fast.ode.integrate import Integrator, Solution, integrate

__all__ = ["Fixed", "IntegrationError", "Integrator", "Solution", "Tolerances", "integrate"]
