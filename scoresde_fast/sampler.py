# SPDX-License-Identifier: Apache-2.0
"""`Sampler`: a model and a solver, prepared once, that turn seeds into images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from scoresde_fast.data.arrays import ArrayLike, as_tensor
from scoresde_fast.devices import computing_device
from scoresde_fast.errors import shown
from scoresde_fast.flow.adaptive import AdaptiveRunner
from scoresde_fast.flow.options import AdaptiveOptions
from scoresde_fast.loop.batches import Batches, fitting_batch
from scoresde_fast.loop.condition import BoundConditions, Conditions, RunContext, as_conditions, bind_all
from scoresde_fast.loop.feature_cache import FeatureCaching
from scoresde_fast.loop.inputs import InputValues, NetworkInputs
from scoresde_fast.loop.network_guidance import NetworkGuidance
from scoresde_fast.loop.parallel_runner import PARALLEL_TOLERANCE, Parallel, ParallelRunner
from scoresde_fast.loop.run_monitor import OnStep
from scoresde_fast.loop.step import Callback, Recorder, Step, Trajectory
from scoresde_fast.loop.table_runner import TableRunner
from scoresde_fast.model import ScoreFunction, describe_model
from scoresde_fast.noise import check_seed, seed_sequence
from scoresde_fast.run_options import accepting_options, names, require_batch_size, split_options
from scoresde_fast.solver_choice import DESCRIPTION_KEYS, solver_options
from scoresde_fast.solvers import SolverOptions, build_table, is_published

ENOUGH, SPREAD = 64, 2.0
"""Number of elements from which the spread of own noise is checked, and the factor by which it may differ from 1."""


class Sampler:
    """Samples images from a model.  A seed gives the same noise in every batch.

    Options default to the model's configuration.  A network that cannot be compiled or captured runs more slowly, after
    one warning.  A network that cannot be folded runs in half precision by autocast.  Changed weights take effect in
    the next run.

    Args:
        model: any `ScoreFunction`; it is moved to the device.  During a run it is in evaluation mode.
        solver: the name of a solver, or all solver options as one `SolverOptions` or `AdaptiveOptions`.
        steps: number of steps.
        condition: a condition such as `scoresde_fast.Projection` or `scoresde_fast.PiGDM`, or several, applied in
            order.  Adaptive solvers ("rk45" and "ggf") take none.
        inputs: inputs of the network besides the state and the time, such as class labels: `scoresde_fast.Inputs`, or
            tensors (N, ...) by name, of which seed s gets the row s mod N.
        guidance: `scoresde_fast.ClassifierFreeGuidance` or `scoresde_fast.Autoguidance` of the network.
        options: the fields of `RunOptions`, and of `SolverOptions` or, for adaptive solvers, `AdaptiveOptions`.

    Raises:
        ValueError: an option is out of range, does not fit the model's SDE or the device, or names a missing device.
        RuntimeError: the backend is not available; the message gives the reason.
        TypeError: ``model`` is not a model, or an option's name is unknown.
    """

    @accepting_options(SolverOptions, AdaptiveOptions)
    def __init__(
        self,
        model: ScoreFunction,
        solver: str | SolverOptions | AdaptiveOptions | None = None,
        steps: int | None = None,
        *,
        condition: Conditions = None,
        inputs: InputValues = None,
        guidance: NetworkGuidance | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(model, ScoreFunction):
            is_network = isinstance(model, nn.Module)
            given = repr(model) if isinstance(model, str) else f"of type {type(model).__name__}"
            example = "wrap(network, schedule, ...)" if is_network else "load('digits-vp')"
            raise TypeError(f"model is {given}; pass a model, for example scoresde_fast.{example}")
        solver_names = names(SolverOptions, AdaptiveOptions)
        arguments = "condition", "inputs", "guidance"
        passed, self.run_options = split_options({"solver": solver, "steps": steps, **options}, solver_names, arguments)
        run = self.run_options
        self.options = solver_options(model, passed, conditioned=condition is not None)
        self.device = computing_device(model.own_device if run.device is None else run.device)
        self.model = model.to(self.device)
        self.conditions = as_conditions(condition)
        self.inputs = NetworkInputs.bind(inputs, guidance, self.model, self.device)
        self.runner: TableRunner | AdaptiveRunner
        if isinstance(self.options, AdaptiveOptions):
            if self.conditions:
                raise ValueError(
                    f"solver {self.options.solver!r} takes no condition; choose a fixed-step solver, such as 'pc'"
                )
            self.runner = AdaptiveRunner(self.model, self.options, self.device, run, self.inputs)
        else:
            published = is_published(model.sde, self.options)
            trained = self.model if published else self.model.at_trained_times()
            self.table = build_table(trained.sde, self.options)
            with torch.inference_mode(False):  # gradients pass through the tensors of conditions
                context = RunContext(trained, self.table, self.options, self.device, run.backend)
                bound = bind_all(self.conditions, context)
            self.runner = self._table_runner(trained, bound)
        self.batch_size = run.batch_size if run.batch_size != "auto" else fitting_batch(self.runner)

    def _table_runner(self, trained: ScoreFunction, bound: BoundConditions) -> TableRunner:
        """Return the runner of the table: one step after another, or in parallel."""
        options, run = self.options, self.run_options
        assert isinstance(options, SolverOptions)
        if options.parallel is not None:
            tolerance = PARALLEL_TOLERANCE if options.parallel_tolerance is None else options.parallel_tolerance
            parallel = Parallel(options.parallel, tolerance)
            return ParallelRunner(trained, self.table, self.device, run, parallel, conditions=bound, inputs=self.inputs)
        return TableRunner(
            trained,
            self.table,
            self.device,
            run,
            langevin_norm=options.langevin_norm,
            conditions=bound,
            inputs=self.inputs,
            caching=FeatureCaching(options.cache_interval, options.cache_branches),
        )

    @property
    def nfe(self) -> int | None:
        """Number of network evaluations per image; None for adaptive solvers and in parallel, see `evaluations`."""
        return self.runner.nfe

    def evaluations(self, seeds: Sequence[int]) -> list[int]:
        """Return the number of network evaluations of each seed's image.

        Raises:
            ValueError: the solver is adaptive or parallel, and the image of a seed has not been sampled yet.
        """
        return self.runner.evaluations(seeds)

    @property
    def implementation(self) -> str:
        """How the network runs, such as "folded network, bf16, compiled, captured"; complete after the first run."""
        return self.runner.implementation

    @property
    def batch_dependent(self) -> bool:
        """Whether an image depends on the other images of its batch."""
        return self.runner.batch_dependent

    def describe(self) -> dict[str, Any]:
        """Return the settings that determine the output, as JSON values."""
        self.runner.model.network = self.model.network  # it may have been replaced
        self.runner.refresh()  # the precision depends on the current network
        return {
            "model": describe_model(self.model),
            **{DESCRIPTION_KEYS.get(name, name): value for name, value in asdict(self.options).items()},
            "run_seed": self.run_options.run_seed,
            "precision": self.runner.precision,
            "strict": self.runner.strict,
            **self.inputs.describe(),
            **({"condition": [condition.describe() for condition in self.conditions]} if self.conditions else {}),
        }

    @overload
    def sample(
        self, seeds: Sequence[int] | int, on_step: OnStep | None = None, *, return_velocity: Literal[False] = False,
        trajectory: Literal[False] = False, noise: ArrayLike | None = None, callback: Callback | None = None,
        progress: bool = False,
    ) -> Tensor: ...  # fmt: skip

    @overload
    def sample(
        self, seeds: Sequence[int] | int, on_step: OnStep | None = None, *, return_velocity: bool,
        trajectory: Literal[False] = False, noise: ArrayLike | None = None, callback: Callback | None = None,
        progress: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]: ...  # fmt: skip

    @overload
    def sample(
        self, seeds: Sequence[int] | int, on_step: OnStep | None = None, *, return_velocity: bool = False,
        trajectory: Literal[True], noise: ArrayLike | None = None, callback: Callback | None = None,
        progress: bool = False,
    ) -> tuple[Tensor, Trajectory]: ...  # fmt: skip

    @overload
    def sample(
        self, seeds: Sequence[int] | int, on_step: OnStep | None = None, *, return_velocity: bool = False,
        trajectory: bool = False, noise: ArrayLike | None = None, callback: Callback | None = None,
        progress: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor] | tuple[Tensor, Trajectory]: ...  # fmt: skip

    def sample(
        self,
        seeds: Sequence[int] | int,
        on_step: OnStep | None = None,
        *,
        return_velocity: bool = False,
        trajectory: bool = False,
        noise: ArrayLike | None = None,
        callback: Callback | None = None,
        progress: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor] | tuple[Tensor, Trajectory]:
        """Return images (len(seeds), C, H, W) float32 in [0, 1], in the order of the seeds; points are not clipped.

        Args:
            seeds: the seed of each image; a number n stands for 0, 1, ..., n - 1.
            on_step: called with (evaluations done, total evaluations) of the current batch.
            return_velocity: return (images, velocities) of a CLD model, in the same shape and in units of the SDE.
            trajectory: return (images, `Trajectory`): the states and the denoised estimates of all steps.
            noise: (len(seeds), *state_shape), the standard normal noise of the prior, instead of that of the seeds.
            callback: called with a `Step` after each step of each batch; the loop is then not captured.
            progress: show a progress bar, also in notebooks.

        Raises:
            ValueError: ``return_velocity`` is set and the model's SDE has no velocity, ``noise`` has another shape, or
                an adaptive solver has a callback or a trajectory.
            Exception: the exceptions of `stream`.
        """
        if return_velocity and (self.model.sde.parts == 1 or trajectory):
            reason = (
                "the states of a trajectory have the velocities"
                if trajectory
                else f"it needs a CLD model, but states of the SDE {self.model.sde.name!r} have no velocity"
            )
            raise ValueError(f"return_velocity=True is not possible: {reason}; leave it out")
        seeds = seed_sequence(seeds)
        recorder = Recorder(self.model.image_shape) if trajectory else None
        if callback is not None and not callable(callback):
            raise TypeError(f"callback is {shown(callback)}; it must be a function of a step")
        callbacks = [each for each in (callback, recorder) if each is not None]
        batches: list[Tensor] = []
        with tqdm(total=len(seeds), unit="image", disable=not progress) as bar:

            def report(done: int, total: int) -> None:
                finished = sum(map(len, batches))
                size = min(self.batch_size, len(seeds) - finished)
                bar.update(finished + size * done // total - bar.n)
                if on_step is not None:
                    on_step(done, total)

            steps = report if progress else on_step
            for _, states in self._states(seeds, self.batch_size, steps, noise=noise, callbacks=callbacks):
                batches.append(states)
            bar.update(len(seeds) - bar.n)
        states = (
            torch.cat(batches)
            if batches
            else torch.empty(0, *self.model.state_shape, dtype=torch.float32, device=self.device)
        )
        images = self._images(states)
        if recorder is not None:
            return images, recorder.trajectory()
        return (images, states.chunk(2, dim=1)[1]) if return_velocity else images

    def stream(
        self, seeds: Sequence[int] | int, batch_size: int | None = None, on_step: OnStep | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield batches of (seeds, images) in the order of the seeds; images are (B, C, H, W) float32 in [0, 1].

        The images are on the sampler's device.  ``on_step`` gets (evaluations done, total evaluations) of the current
        batch.

        Raises:
            ValueError: ``seeds`` is neither a number nor a sequence, or a seed is not an integer from 0 to 2^63 - 1.
            NonFiniteError: the network returned NaN or infinity; the message gives the step and the time.
            IntegrationError: the same with an adaptive solver, or it cannot meet the tolerances; has the last states.
            BatchTooLargeError: the batch does not fit in memory; the message gives a size that does.
        """
        for batch, states in self._states(seeds, self.batch_size if batch_size is None else batch_size, on_step):
            yield batch, self._images(states)

    def _states(
        self,
        seeds: Sequence[int] | int,
        batch_size: int,
        on_step: OnStep | None,
        *,
        noise: Any = None,
        callbacks: Sequence[Callback] = (),
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield batches of seeds and their final states."""
        require_batch_size(batch_size)
        checked = [check_seed(seed) for seed in seed_sequence(seeds)]
        self.runner.model.network = self.model.network  # it may have been replaced
        self.inputs.require_seeds(checked)
        for condition in self.conditions:
            condition.require_seeds(checked)
        if noise is not None:
            noise = as_tensor(noise)
            self._require_noise(noise, len(checked))

        def callback(step: Step) -> None:
            for each in callbacks:
                each(step)

        def work(positions: Sequence[int], on_step: OnStep | None) -> Tensor:
            own = [checked[position] for position in positions]
            normals = None if noise is None else noise[list(positions)].float()
            return self.runner.run(own, on_step, normals=normals, callback=callback if callbacks else None)

        batches = Batches(self.runner, work, sequential=bool(callbacks))
        for start in range(0, len(checked), batch_size):
            batch = checked[start : start + batch_size]
            yield batch, batches.run(range(start, start + len(batch)), batch, batch_size, on_step)

    def _require_noise(self, noise: Tensor, count: int) -> None:
        """Raise ``ValueError`` unless ``noise`` is standard normal numbers of ``count`` samples."""
        shape = (count, *self.model.state_shape)
        if noise.shape != shape:
            raise ValueError(f"noise has shape {tuple(noise.shape)}; for these seeds it must be {shape}")
        std = float(noise.double().std())
        if noise.numel() >= ENOUGH and not 1 / SPREAD < std < SPREAD:
            raise ValueError(
                f"noise has the standard deviation {std:.3g}; it must be standard normal, because sampling scales it "
                "to the prior"
            )

    def _images(self, states: Tensor) -> Tensor:
        return self.model.to_images(states.chunk(self.model.sde.parts, dim=1)[0])
