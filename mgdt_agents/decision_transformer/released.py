"""The checkpoint that Lee et al. 2022 released, as an agent.

The file is a pickle of `(params, state)`, and `params` maps the names of Haiku's modules to their
arrays by name. A pickle may call anything, so this one is read by an unpickler that has only
stand-ins for what an array of numpy or JAX calls, and knows no other name.
"""

import pickle
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from mgdt_agents.decision_transformer.agent import DecisionTransformerAgent
from mgdt_agents.decision_transformer.config import DecisionTransformerConfig
from mgdt_agents.decision_transformer.model import DecisionTransformer
from mgdt_agents.decision_transformer.rules import BestOfSamples
from mgdt_agents.errors import AgentLoadError
from mgdt_envs import AtariProtocol, suite

TOP = "decision_transformer"
SEQUENCE = f"{TOP}/~/sequence"
MAX_RETURN = 99  # The release has 120 bins from -20; none for the paper's 100.


def from_released_checkpoint(
    path: str | Path,
    *,
    protocol: AtariProtocol | None = None,
    device: str | torch.device = "auto",
) -> DecisionTransformerAgent:
    """Return the agent whose weights are in the released file, or in another of its layout.

    Layers and width follow from the arrays. Return bins, the way of acting and the weights of the
    losses are the release's, and the games are the 41 that it was trained on.

    Args:
        path: the pickle.
        protocol: the agent's; None is that of the released evaluator. Fine-tuning wants the one
            that its replay was recorded with.
        device: where to compute; "auto" takes a GPU if there is one.

    Raises:
        AgentLoadError: if the file cannot be read, names anything that no array needs, which is
            then not called, or holds other arrays than the released model's, or numbers that are
            not finite in fp32.
    """
    arrays = _read_arrays(Path(path))
    try:
        config = DecisionTransformerConfig(
            layers=sum(name.endswith("_ln_1/scale") for name in arrays),
            width=arrays.get(f"{SEQUENCE}/ln_f/scale", np.empty(0)).size,
            max_return=MAX_RETURN,
            loss_weights="vocabulary",
        )
    except ValueError as error:
        raise AgentLoadError(f"{path} does not hold the released model: {error}") from error
    with torch.device("meta"):
        _check_shapes(path, arrays, DecisionTransformer(config))
    agent = DecisionTransformerAgent(
        config,
        rule=BestOfSamples(),
        games=suite("mgdt41"),
        protocol=protocol or AtariProtocol.mgdt_release(),
        device=device,
    )
    for name, weight in _in_released_layout(agent.model.state_dict(), config.layers).items():
        with np.errstate(over="ignore"):
            array = arrays[name].astype(np.float32)
        if not np.isfinite(array).all():
            raise AgentLoadError(f"{path} is of no use: {name} is not finite in fp32.")
        weight.copy_(torch.from_numpy(array))
    agent.model.eval()
    agent.trained_windows = None
    return agent


def _in_released_layout(weights: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """Return views of the model's weights under the names and in the shapes of the file."""
    inputs = f"{TOP}/~_embed_inputs"
    linears = {
        f"{TOP}/ret_linear": "return_head",
        f"{TOP}/act_linear": "action_head",
        f"{TOP}/rew_linear": "reward_head",
    }
    norms = {f"{SEQUENCE}/ln_f": "norm"}
    views = {
        f"{TOP}/image_pos_enc": weights["stem.position_MD"][None, None],
        f"{TOP}/positional_embeddings": weights["position_SD"],
        f"{inputs}/image_emb/w": weights["stem.patch.weight"].permute(2, 3, 1, 0),
        f"{inputs}/image_emb/b": weights["stem.patch.bias"],
        f"{inputs}/embed/embeddings": weights["return_embedding.weight"],
        f"{inputs}/embed_1/embeddings": weights["action_embedding.weight"],
        f"{inputs}/embed_2/embeddings": weights["reward_embedding.weight"],
    }
    for layer in range(layers):
        released, own = f"{SEQUENCE}/h{layer}", f"blocks.{layer}"
        norms |= {f"{released}_ln_1": f"{own}.norm_1", f"{released}_ln_2": f"{own}.norm_2"}
        linears |= {
            f"{released}_attn/linear": f"{own}.attention_output",
            f"{released}_mlp/linear": f"{own}.mlp_input",
            f"{released}_mlp/linear_1": f"{own}.mlp_output",
        }
        attention_weights = weights[f"{own}.query_key_value.weight"].chunk(3)
        attention_biases = weights[f"{own}.query_key_value.bias"].chunk(3)
        for part, name in enumerate(("query", "key", "value")):
            views[f"{released}_attn/{name}/w"] = attention_weights[part].T
            views[f"{released}_attn/{name}/b"] = attention_biases[part]
    for module, name in linears.items():
        views[f"{module}/w"] = weights[f"{name}.weight"].T
        views[f"{module}/b"] = weights[f"{name}.bias"]
    for module, name in norms.items():
        views[f"{module}/scale"] = weights[f"{name}.weight"]
        views[f"{module}/offset"] = weights[f"{name}.bias"]
    return views


def _check_shapes(
    path: str | Path, arrays: dict[str, np.ndarray], model: DecisionTransformer
) -> None:
    """Raise `AgentLoadError` unless the file's arrays have the model's names and shapes."""
    config = model.config
    weights = _in_released_layout(model.state_dict(), config.layers)
    found = {name: str(array.shape) for name, array in arrays.items()}
    expected = {name: str(tuple(weight.shape)) for name, weight in weights.items()}
    differing = [
        f"{name} is {found.get(name, 'missing')}, expected {expected.get(name, 'no such array')}"
        for name in sorted(expected.keys() | found.keys())
        if found.get(name) != expected.get(name)
    ]
    if differing:
        raise AgentLoadError(
            f"{path} does not fit the released model of {config.layers} layers and width "
            f"{config.width} in {len(differing)} arrays: {'; '.join(differing[:3])}."
        )


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the parameters in the pickle `path` by "module/name"."""
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file).load()
    except OSError as error:
        raise AgentLoadError(f"Cannot read {path}: {error.strerror}.") from error
    # A broken pickle may raise anything.
    except Exception as error:
        raise AgentLoadError(
            f"Expected a pickle of arrays alone, and {path} is none: {error}"
        ) from error
    try:
        params, _state = content
        return {
            f"{module}/{name}": leaf.array
            for module, leaves in params.items()
            for name, leaf in leaves.items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise AgentLoadError(
            f"Expected {path} to hold (params, state), params being arrays by module and name: "
            f"{error}"
        ) from error


class _ArrayUnpickler(pickle.Unpickler):
    """Reads numbers, texts, containers, and arrays as `_PickledArray`."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name, which itself is never looked up."""
        if (full_name := f"{module}.{name}") not in _STAND_INS:
            raise pickle.UnpicklingError(
                f"it asks for {full_name!r}, which no array needs; it was not called"
            )
        return _STAND_INS[full_name]


class _PickledDType:
    """What a pickle takes for `numpy.dtype`."""

    def __init__(self, code: str, *_flags: bool) -> None:
        if not re.fullmatch("[biuf][1248]", code):
            raise pickle.UnpicklingError(f"expected arrays of numbers, got {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        _version, byte_order, *_ = state
        self.dtype = self.dtype.newbyteorder(byte_order)


class _PickledArray:
    """What a pickle takes for `numpy.ndarray`, and for the functions that make one."""

    array: np.ndarray

    def __init__(self, *_empty: Any) -> None:
        """Wait for `__setstate__`, which brings the values."""

    def __setstate__(self, state: tuple) -> None:
        _version, shape, dtype, is_fortran, data = state
        order: Literal["C", "F"] = "F" if is_fortran else "C"
        self.array = np.frombuffer(data, dtype.dtype).reshape(shape, order=order)

    @classmethod
    def from_buffer(
        cls, data: bytes, dtype: _PickledDType, shape: tuple, order: str, axes: tuple | None = None
    ) -> Self:
        """Do what numpy's `_frombuffer` does, by which protocol 5 makes arrays."""
        pickled = cls()
        pickled.__setstate__((1, shape, dtype, order == "F", data))
        if axes is not None:
            pickled.array = pickled.array.transpose(axes)
        return pickled

    @classmethod
    def from_scalar(cls, dtype: _PickledDType, data: bytes) -> Self:
        """Do what numpy's `scalar` does."""
        return cls.from_buffer(data, dtype, (), "C")

    @classmethod
    def from_jax(cls, _function: Any, _empty: tuple, state: tuple, _aval: dict) -> Self:
        """Do what JAX's `_reconstruct_array` does, without a device."""
        pickled = cls()
        pickled.__setstate__(state)
        return pickled


# A pickle may set attributes of what it names. These classes do not let it, and what it adds to a
# method replaces nothing.
_STAND_INS = {
    # Writes bytes in the protocols that have none.
    "_codecs.encode": str.encode,
    "numpy.dtype": _PickledDType,
    "numpy.ndarray": _PickledArray,
    # numpy.core became numpy._core in numpy 2.0.
    **{
        f"numpy.{core}.{name}": stand_in
        for core in ("core", "_core")
        for name, stand_in in {
            "multiarray._reconstruct": _PickledArray,
            "multiarray.scalar": _PickledArray.from_scalar,
            "numeric._frombuffer": _PickledArray.from_buffer,
        }.items()
    },
    # jax.Array, and DeviceArray before it; older ones were written as numpy's.
    "jax._src.array._reconstruct_array": _PickledArray.from_jax,
    "jax._src.device_array.reconstruct_device_array": _PickledArray.from_jax,
}
