# SPDX-License-Identifier: Apache-2.0
"""States of training runs: their names in a run's folder, reading with checks, and the weights in them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from scoresde_fast.checkpoints.official import misfit
from scoresde_fast.checkpoints.pickles import require_checksums, require_modest
from scoresde_fast.checkpoints.tensor_files import require_real

STATE, PREVIOUS = "state.pt", "state.previous.pt"
"""The newest state of a run and the one before it, in the run's folder."""
MODEL = "model"
"""The subfolder of the trained model."""
SECTIONS: dict[str, type] = {
    "config": dict, "seed": int, "step": int, "curve": list, "since_log": list, "network": dict, "ema": dict,
    "optimizer": dict,
}  # fmt: skip
"""What a state contains. States of earlier versions lack the section ``data``, which `identify` returns."""
State = dict[str, Any]
Result = TypeVar("Result")


class DamagedStateError(ValueError):
    """A file with the name of a state is truncated, damaged, or no state."""


def snapshot_name(step: int) -> str:
    """Return the name of the subfolder with the averaged weights of ``step``."""
    return f"checkpoint_{step}"


def snapshots(folder: Path) -> list[Path]:
    """Return the folders of a run's snapshots by rising step, complete or not."""
    matches = [(re.fullmatch(r"checkpoint_(\d+)", path.name, re.ASCII), path) for path in folder.glob("checkpoint_*")]
    return [path for _, path in sorted((int(match[1]), path) for match, path in matches if match)]


def is_run(folder: str | Path) -> bool:
    """Return whether ``folder`` contains a state of a training run, damaged or not."""
    return any((Path(folder) / name).exists() for name in (STATE, PREVIOUS))


def is_state(path: str | Path) -> bool:
    """Return whether ``path`` is a readable file with the sections of a state; the weights are not read."""
    try:
        require_modest(Path(path))
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # another or a damaged file, which may raise anything; its own loader explains it
        return False
    return isinstance(content, dict) and SECTIONS.keys() <= content.keys()


def read_state(path: Path) -> State:
    """Read a state onto the CPU; nothing in it is executed.

    Raises:
        DamagedStateError: the file is truncated, a checksum is wrong, or a section is missing or of another type.
        OSError: the file cannot be opened.
    """
    if not path.is_file():
        raise DamagedStateError(f"{path} is not a file")
    try:
        require_modest(path)
        require_checksums(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes may raise anything
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise DamagedStateError(f"{path} is truncated or damaged") from error
    if not isinstance(state, dict):
        raise DamagedStateError(f"{path} is not the state of a training run, but a {type(state).__name__}")
    for name, kind in (SECTIONS | ({"data": dict} if "data" in state else {})).items():
        if not isinstance(state.get(name), kind):
            what = f"of type {type(state[name]).__name__}" if name in state else "missing"
            raise DamagedStateError(f"{path} is not the state of a training run ({name!r} is {what})")
    return state


def newest_state(folder: Path, use: Callable[[Path, State], Result]) -> Result:
    """Return ``use(path, state)`` of the newest intact state in a run's folder; warn if a newer one is damaged.

    Args:
        use: may raise DamagedStateError too; then the state before is used.

    Raises:
        DamagedStateError: no state is intact.
        OSError: a state cannot be opened.
    """
    problems: list[str] = []
    for path in (folder / name for name in (STATE, PREVIOUS)):
        if not path.exists():
            continue
        try:
            state = read_state(path)
            result = use(path, state)
        except DamagedStateError as error:
            problems.append(str(error))
            continue
        if problems:
            warnings.warn(f"{problems[0]}; {path.name}, of step {state['step']}, is taken instead", stacklevel=2)
        return result
    saved = snapshots(folder)
    load = f"; its snapshot {saved[-1]} loads as a model" if saved else ""
    raise DamagedStateError(
        f"{' and '.join(problems)}; the run has no intact state: restore {STATE} from a copy, or choose another "
        f"folder{load}"
    )


def averaged_weights(path: Path, network: nn.Module, state: State) -> dict[str, Tensor]:
    """Return the averaged weights in a state by name; raise DamagedStateError unless they fit ``network``."""
    shadow = state["ema"].get("shadow")
    trainable = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    if (
        not isinstance(shadow, list)
        or not all(isinstance(weight, Tensor) for weight in shadow)
        or [weight.shape for weight in shadow] != [weight.shape for weight in trainable.values()]
    ):
        raise DamagedStateError(f"the averaged weights of {path} do not fit its configuration")
    return dict(zip(trainable, shadow, strict=True))


def copy_weights(path: Path, network: nn.Module, state: State, *, ema: bool) -> None:
    """Copy the averaged weights of a state into ``network``, or without ``ema`` the raw weights.

    Raises:
        DamagedStateError: the weights do not fit ``network``.
    """
    weights: Mapping[str, Any] = state["network"]
    if not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise DamagedStateError(f"{path} is not the state of a training run: its section 'network' is not of tensors")
    if problem := misfit(network.state_dict(), weights):
        raise DamagedStateError(f"the weights of {path} do not fit its configuration ({problem})")
    averages = averaged_weights(path, network, state)
    try:
        require_real(path, {**weights, **{f"average of {name}": weight for name, weight in averages.items()}})
    except ValueError as error:
        raise DamagedStateError(str(error)) from error
    network.load_state_dict({**weights, **averages} if ema else weights)
