# SPDX-License-Identifier: Apache-2.0
"""Parametrisations: the time labels that a network takes, and the conversion of its output to a score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from scoresde_fast.errors import unknown_message
from scoresde_fast.sdes import CLDSDE, EDM, SDE, SDES, SMLD, VESDE, VPSDE, Array, Betas, RectifiedFlow, ScalarSDE, Time
from scoresde_fast.sdes.base import as_times, values_sha256
from scoresde_fast.sdes.schedules import ROUNDING

Prediction = Literal["epsilon", "sample", "v_prediction", "score", "denoiser", "flow"]
LabelFunction = Callable[[Array], npt.NDArray[Any]]

FIT = 1e-4
"""Tolerance for the marginals that a prediction requires: the published tables of betas are rounded."""


@dataclass(frozen=True)
class Parametrisation(ABC):
    """The labels and the score of a network on an SDE: score = `output_scale` output + `state_scale` x.

    Everything is float64.  On CLD x is the velocity, and the score is that of the velocity.
    """

    sde: SDE

    @abstractmethod
    def labels(self, t: Time) -> Array:
        """Return the network's time labels at times ``t``."""

    @abstractmethod
    def output_scale(self, t: Time) -> Array:
        """Return the factor of the network's output in the score."""

    def state_scale(self, t: Time) -> Array:
        """Return the factor of the state in the score."""
        return np.zeros_like(as_times(t))

    def describe(self) -> dict[str, Any]:
        """Return the SDE and a hash of the labels and scales, as JSON values."""
        times = self.sde.checked_times()
        values = self.labels(times), self.output_scale(times), self.state_scale(times)
        return {"sde": self.sde.describe(), "parametrisation_sha256": values_sha256(*values)}


@dataclass(frozen=True)
class OfficialParametrisation(Parametrisation):
    """The parametrisation of the papers' networks.

    Labels: ``label_scale`` t (VP, sub-VP), sigma(t) (VE) or t (CLD).  If not ``continuous``, the label on VE and VP is
    the index of one of ``num_scales`` steps; VE counts them from the largest noise level.

    Scores: a VE network outputs the score.  VP and sub-VP networks predict the noise: the score is -output / std.  CLD
    networks predict the noise of v: its score is -l_t output.  A ``mixed`` score adds the score of normal data: -x
    (VP), -v / S_vv (CLD).

    Raises:
        ValueError: the SDE is not one of the papers.
    """

    continuous: bool = True
    num_scales: int = 1000
    mixed: bool = False
    label_scale: float = 999.0

    def __post_init__(self) -> None:
        if not isinstance(self.sde, tuple(SDES.values())):
            raise ValueError(
                f"the time labels of networks on the SDE {self.sde.name!r} are not known: use scoresde_fast.wrap, or "
                "derive a Parametrisation"
            )

    def at_trained_times(self) -> Parametrisation:
        """Return the parametrisation at the times of a discrete training; itself if the training was continuous.

        The labels of the official samplers, which this class has, are those of the next lower times on VP: index i is
        of the noise after i + 1 steps, and they use it at the time i / (num_scales - 1).
        """
        if self.continuous or not isinstance(self.sde, VPSDE | VESDE):
            return self
        if isinstance(self.sde, VPSDE):
            return PredictionParametrisation(Betas(self.sde.discrete_betas(self.num_scales)), "epsilon", "index")
        return replace(self, sde=SMLD(self.sde.sigma_min, self.sde.sigma_max, self.num_scales))

    def labels(self, t: Time) -> Array:
        t = as_times(t)
        if isinstance(self.sde, CLDSDE):
            return t
        if isinstance(self.sde, VESDE):
            return self.sde.sigma(t) if self.continuous else np.round((self.sde.T - t) * (self.num_scales - 1))
        # Official score_sde models use 999 for every num_scales.
        continuous = self.continuous or not isinstance(self.sde, VPSDE)
        return t * (self.label_scale if continuous else self.num_scales - 1)

    def output_scale(self, t: Time) -> Array:
        t = as_times(t)
        if isinstance(self.sde, CLDSDE):
            return -self.sde.ell(t)
        if isinstance(self.sde, VESDE):
            return np.ones_like(t)
        if not self.continuous and isinstance(self.sde, VPSDE):
            return -1 / self.sde.discrete_std(self.labels(t), self.num_scales)
        assert isinstance(self.sde, ScalarSDE)
        return -1 / self.sde.marginal(t).std

    def state_scale(self, t: Time) -> Array:
        t = as_times(t)
        if not self.mixed:
            return np.zeros_like(t)
        return -1 / self.sde.mixed_variance(t) if isinstance(self.sde, CLDSDE) else -np.ones_like(t)


def _index(sde: SDE, t: Array) -> Array:
    assert isinstance(sde, Betas)  # checked by `PredictionParametrisation`
    index = np.maximum(len(sde) * t - 1, 0)
    nearest = np.round(index)
    return np.where(np.abs(index - nearest) < ROUNDING, nearest, index)


def _sigma(sde: SDE, t: Array) -> Array:
    assert isinstance(sde, ScalarSDE)  # checked by `PredictionParametrisation`
    return sde.marginal(t).std


LABELS: dict[str, Callable[[SDE, Array], Array]] = {
    "index": _index,
    "time": lambda sde, t: t,
    "time_999": lambda sde, t: 999 * t,
    "sigma": _sigma,
    "log_sigma": lambda sde, t: np.log(_sigma(sde, t)) / 4,
}
"""Labels by name, as functions of the SDE and the times."""


@dataclass(frozen=True)
class PredictionParametrisation(Parametrisation):
    """The parametrisation of a network by what it predicts about x(t) = alpha x(0) + sigma z.

    ======================  =============================================================================
    ``prediction``          output
    ======================  =============================================================================
    "epsilon"               z (Ho et al. 2020)
    "sample"                x(0)
    "v_prediction"          alpha z - sigma x(0), for alpha^2 + sigma^2 = 1 (Salimans & Ho 2022)
    "score"                 -z / sigma
    "denoiser"              D(x; sigma) = x(0), for alpha = 1 (Karras et al. 2022)
    "flow"                  z - x(0), the velocity dx/dt, for alpha = 1 - t and sigma = t (Lipman et al. 2022)
    ======================  =============================================================================

    On CLD a network predicts the "score" of the velocity, or "epsilon", its noise.

    Args:
        sde: the noise schedule.
        prediction: the meaning of the output.
        label: the labels: "index" (of a beta, an integer), "time" (t), "time_999" (999 t), "sigma", "log_sigma"
            (ln(sigma) / 4), or a function that maps times (n,) float64 to labels (n,).  Labels that are integers reach
            the network as int64, others as float32.  "index" is rounded to the nearest integer.

    Raises:
        ValueError: the prediction or the label is unknown, or does not fit the SDE.
    """

    prediction: Prediction
    label: str | LabelFunction

    def __post_init__(self) -> None:
        if self.prediction not in get_args(Prediction):
            raise ValueError(unknown_message("prediction", self.prediction, get_args(Prediction)))
        if not callable(self.label) and self.label not in LABELS:
            raise ValueError(unknown_message("labels", self.label, LABELS))
        sde, times = self.sde, self.sde.checked_times()
        if self.label == "index" and not isinstance(sde, Betas):
            raise ValueError(
                f"labels='index' need a schedule of betas, not {sde!r}: pass a function of t, such as "
                "labels=lambda t: 999 * t"
            )
        if not isinstance(sde, ScalarSDE):
            if self.prediction not in ("score", "epsilon"):
                raise ValueError(f"prediction={self.prediction!r} is not defined on the SDE {sde.name!r}: use 'score'")
            if self.label in ("sigma", "log_sigma"):
                raise ValueError(f"labels={self.label!r} are not defined on the SDE {sde.name!r}: use 'time'")
        elif (requirement := REQUIREMENTS.get(self.prediction)) is not None:
            formula, error = requirement
            if (worst := float(np.abs(error(times, *sde.marginal(times))).max())) > FIT:
                raise ValueError(
                    f"prediction={self.prediction!r} needs a schedule with {formula}, but {sde!r} differs from it by "
                    f"{worst:.2g}: choose the schedule and the prediction of the network's training"
                )
        if callable(self.label):
            try:
                labels = np.asarray(self.label(times))
            except TypeError as error:
                raise TypeError(f"labels fails for a NumPy array of times: {error}; use functions of NumPy") from error
            if labels.shape != times.shape or labels.dtype.kind not in "iuf" or not np.isfinite(labels).all():
                raise ValueError(
                    f"labels returns an array of dtype {labels.dtype} and shape {labels.shape} for times "
                    f"{times.shape}; it must return a finite number for each time"
                )

    def describe(self) -> dict[str, Any]:
        labels = values_sha256(self.labels(self.sde.checked_times())) if callable(self.label) else self.label
        return {"sde": self.sde.describe(), "prediction": self.prediction, "labels": labels}

    @property
    def integer_labels(self) -> bool:
        """Whether the network takes integers."""
        if callable(self.label):
            return np.asarray(self.label(np.array([self.sde.T]))).dtype.kind in "iu"
        return self.label == "index"

    def labels(self, t: Time) -> Array:
        t = as_times(t)
        labels = self.label(t) if callable(self.label) else LABELS[self.label](self.sde, t)
        return np.asarray(labels, dtype=np.float64)

    def output_scale(self, t: Time) -> Array:
        t = as_times(t)
        if isinstance(self.sde, CLDSDE):
            return np.ones_like(t) if self.prediction == "score" else -self.sde.ell(t)
        return self._scales(t)[0]

    def state_scale(self, t: Time) -> Array:
        t = as_times(t)
        return np.zeros_like(t) if isinstance(self.sde, CLDSDE) else self._scales(t)[1]

    def _scales(self, t: Array) -> tuple[Array, Array]:
        """Return the factors of the output and of the state in the score, which is -E[z] / sigma."""
        assert isinstance(self.sde, ScalarSDE)
        alpha, sigma = self.sde.marginal(t)
        zero = np.zeros_like(t)
        if self.prediction == "score":
            return np.ones_like(t), zero
        if self.prediction == "epsilon":
            return -1 / sigma, zero
        if self.prediction == "v_prediction":  # z = sigma x + alpha v
            return -alpha / sigma, -np.ones_like(t)
        if self.prediction == "flow":  # z = x + alpha v
            return -alpha / sigma, -1 / sigma
        return alpha / sigma**2, -1 / sigma**2  # x = alpha x(0) + sigma z


REQUIREMENTS: dict[str, tuple[str, Callable[[Array, Array, Array], Array]]] = {
    "v_prediction": ("alpha^2 + sigma^2 = 1", lambda t, alpha, sigma: alpha**2 + sigma**2 - 1),
    "denoiser": ("alpha = 1", lambda t, alpha, sigma: alpha - 1),
    "flow": ("alpha = 1 - t and sigma = t", lambda t, alpha, sigma: np.hypot(alpha - 1 + t, sigma - t)),
}
"""By prediction, the schedule that it needs, and a function of (t, alpha, sigma) that is 0 on such a schedule."""


def usual_labels(sde: SDE) -> str:
    """Return the labels with which networks on this SDE are usually trained."""
    if isinstance(sde, Betas):
        return "index"
    if isinstance(sde, EDM | VESDE):
        return "sigma"
    return "time" if isinstance(sde, CLDSDE | RectifiedFlow) or sde.T != 1 else "time_999"
