"""The folder of a saved agent: `config.json`, `model.safetensors` and `card.md`."""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from mgdt_agents.errors import AgentLoadError, ReplayError
from mgdt_agents.replay.files import (
    check_fields,
    json_bytes,
    make_folder,
    read_object,
    written,
)
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.games import did_you_mean

CHECKSUM = "model_sha256"
"""Field of `config.json`: SHA-256 of `model.safetensors`."""


def write_folder(
    path: Path, content: Mapping[str, Any], tensors: dict[str, Tensor], card: str | None
) -> None:
    """Write an agent's folder; files are replaced whole, when all are written.

    Args:
        path: the folder.
        content: of `config.json`; the checksum of the weights is added.
        tensors: the weights, on the CPU.
        card: text of `card.md`; None leaves an existing card, or writes a minimal one.

    Raises:
        ReplayError: naming a file that cannot be written; the agent that was there stays.
    """
    make_folder(path)
    weights = save(tensors)
    content = {**content, CHECKSUM: hashlib.sha256(weights).hexdigest()}
    files = {"config.json": json_bytes(content), "model.safetensors": weights}
    if card is not None or not (path / "card.md").exists():
        trained_on = ", ".join(content["games"]) or "nothing"
        card = card or f"# {content['agent']}\n\nTrained on: {trained_on}.\n"
        files["card.md"] = card.encode()
    with ExitStack() as stack:
        for name, data in files.items():
            stack.enter_context(written(path / name)).write_bytes(data)


def read_config(path: Path) -> dict[str, Any]:
    """Return the content of `config.json` in an agent's folder; lists in "config" become tuples.

    Raises:
        AgentLoadError: if there is none, or it is not an agent's.
    """
    file = path / "config.json"
    try:
        content = read_object(file)
        check_fields(content, {"agent": str, "games": list, "protocol": dict, "config": dict}, file)
    except (FileNotFoundError, NotADirectoryError):
        raise AgentLoadError(
            f"Expected a saved agent at {path}: a folder with config.json, and there is none."
        ) from None
    except ReplayError as error:
        raise AgentLoadError(f"{file} is no agent's: {error}") from error
    content["config"] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in content["config"].items()
    }
    return content


def saved_tensors(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the network's tensors as a file has them, on the CPU: weights in a dtype.

    Buffers keep theirs: the statistics of values may be larger than float16 can say.

    Raises:
        ValueError: for a dtype that is not floating, which would leave nothing of the weights.
    """
    if not dtype.is_floating_point:
        raise InvalidArgument(f"Expected a floating dtype, such as torch.bfloat16, got {dtype}.")
    weights = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {
        name: tensor.detach().to("cpu", dtype if name in weights else tensor.dtype).contiguous()
        for name, tensor in model.state_dict().items()
    }


def load_weights(path: Path, model: nn.Module, content: Mapping[str, Any]) -> None:
    """Load the weights of an agent's folder into its network.

    Args:
        path: the folder.
        model: the network.
        content: of `config.json`; folders without a checksum are taken as they are.

    Raises:
        AgentLoadError: if the weights are missing, damaged, of another network, or not finite.
    """
    file = path / "model.safetensors"
    try:
        if (expected := content.get(CHECKSUM)) and (found := _sha256(file)) != expected:
            raise AgentLoadError(
                f"{file} is damaged or of another agent: its SHA-256 is {found}, config.json says "
                f"{expected}. Copy or download the folder again."
            )
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise AgentLoadError(
                    f"{file} is of no use: {name} has infinite or undefined numbers. Training may "
                    "have diverged; take an earlier agent."
                )
        model.load_state_dict(tensors)
    except FileNotFoundError as error:
        raise AgentLoadError(f"{path} has no model.safetensors.") from error
    except SafetensorError as error:
        raise AgentLoadError(f"{file} is damaged: {error}") from error
    except RuntimeError as error:
        raise AgentLoadError(f"{path} does not fit its config.json: {error}") from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def check_games(path: Path, saved: Sequence[str], agent: Any) -> None:
    """Check that an agent with parts for games has the games that it was saved with.

    Raises:
        ValueError: for others, or another order: the parts would be of other games then.
    """
    if agent.has_parts_of_games and agent.games != saved:
        raise InvalidArgument(
            f"Parts of the network in {path} belong to its games in their order: expected "
            f"{list(saved)}, got {list(agent.games)}. Leave games out."
        )


def check_options(agent_class: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise `InvalidArgument` that names an option which `agent_class` does not take."""
    parameters = inspect.signature(agent_class).parameters
    known = [name for name in parameters if name not in ("config", "model", "device")]
    for name in options:
        if name not in known:
            kind = getattr(agent_class, "kind", agent_class.__name__)
            raise InvalidArgument(f"Unknown option {name!r} of {kind}. {did_you_mean(name, known)}")
