"""The released checkpoint's layout: its logits and loss, and pickles that are refused."""

import copyreg
import io
import os
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mgdt_agents import load_agent
from mgdt_agents.decision_transformer import DecisionTransformerAgent, from_released_checkpoint
from mgdt_agents.decision_transformer.released import _STAND_INS, _ArrayUnpickler
from mgdt_agents.decision_transformer.rules import BestOfSamples
from mgdt_agents.decision_transformer.tokens import encode_returns, encode_rewards
from mgdt_agents.errors import AgentLoadError
from mgdt_agents.replay import WindowBatch
from mgdt_envs import AtariProtocol, suite

Params = dict[str, dict[str, Any]]

TOP = "decision_transformer"

# `pickle.dumps(jax.numpy.arange(2.0), protocol=4)` by JAX 0.10.2 with numpy 2.4.6.
BY_JAX = (
    b"\x80\x04\x95\xcb\x00\x00\x00\x00\x00\x00\x00\x8c\x0ejax._src.array\x94\x8c\x12"
    b"_reconstruct_array\x94\x93\x94(\x8c\x16numpy._core.multiarray\x94\x8c\x0c_reconstruct\x94"
    b"\x93\x94\x8c\x05numpy\x94\x8c\x07ndarray\x94\x93\x94K\x00\x85\x94C\x01b\x94\x87\x94(K\x01K"
    b"\x02\x85\x94h\x06\x8c\x05dtype\x94\x93\x94\x8c\x02f4\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01<"
    b"\x94NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94b\x89C\x08\x00\x00\x00\x00\x00\x00\x80?"
    b"\x94t\x94}\x94\x8c\tweak_type\x94\x89st\x94R\x94."
)


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    """Random weights in the released layout, inputs, and what an independent implementation of the
    released model computes from them."""
    with np.load(Path(__file__).parent / "width128_layers2.npz") as file:
        return dict(file)


@pytest.fixture
def params(recorded: dict[str, np.ndarray]) -> Params:
    """The weights as the released file holds them."""
    params: Params = {}
    for name, array in recorded.items():
        if name.startswith("param|"):
            _, module, leaf = name.split("|")
            params.setdefault(module, {})[leaf] = array
    return params


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A function that pickles an object to a file."""

    def write(content: Any, protocol: int = 4) -> Path:
        path = tmp_path / "checkpoint.pkl"
        path.write_bytes(pickle.dumps(content, protocol))
        return path

    return write


@pytest.fixture
def agent(params: Params, write: Callable[..., Path]) -> DecisionTransformerAgent:
    return from_released_checkpoint(write((params, {})), device="cpu")


def assert_same_weights(agent: DecisionTransformerAgent, other: DecisionTransformerAgent) -> None:
    for name, tensor in agent.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name


@torch.no_grad()
def test_logits_and_loss_are_the_released_model_s(
    agent: DecisionTransformerAgent, recorded: dict[str, np.ndarray]
) -> None:
    logits = agent.model(
        torch.from_numpy(recorded["observations"]),
        torch.from_numpy(recorded["actions"]),
        torch.from_numpy(encode_rewards(recorded["rewards"])),
        torch.from_numpy(encode_returns(recorded["returns_to_go"], -20, 99)),
    )
    assert logits.keys() == {"return", "action", "reward"}
    for name, values in logits.items():
        torch.testing.assert_close(
            values, torch.from_numpy(recorded[f"{name}_logits"]), atol=1e-4, rtol=1e-4
        )
    batch = WindowBatch(
        frames=recorded["observations"],
        actions=recorded["actions"],
        rewards=recorded["rewards"],
        returns_to_go=recorded["returns_to_go"],
        terminated=np.zeros((6, 4), bool),
        # The release counts padded steps too.
        valid=np.ones((6, 4), bool),
        games=np.zeros(6, np.int64),
        episode_ranks=np.zeros(6, np.float32),
    )
    assert agent.loss(batch)[0].item() == pytest.approx(recorded["loss"].item(), abs=1e-5)


def test_every_weight_comes_from_the_file(agent: DecisionTransformerAgent, params: Params) -> None:
    weights = torch.cat([parameter.flatten() for parameter in agent.model.parameters()])
    arrays = [leaf.ravel() for leaves in params.values() for leaf in leaves.values()]
    np.testing.assert_array_equal(
        np.sort(weights.detach().numpy()), np.sort(np.concatenate(arrays))
    )


def test_plays_saves_and_loads(agent: DecisionTransformerAgent, tmp_path: Path) -> None:
    assert agent.games == suite("mgdt41")
    assert agent.protocol == AtariProtocol.mgdt_release()
    assert agent.rule == BestOfSamples()
    agent.save(tmp_path / "released")
    loaded = load_agent(tmp_path / "released", device="cpu")
    assert isinstance(loaded, DecisionTransformerAgent)
    assert (loaded.config, loaded.games, loaded.protocol, loaded.rule) == (
        agent.config,
        agent.games,
        agent.protocol,
        agent.rule,
    )
    assert_same_weights(agent, loaded)
    observations = np.random.default_rng(0).integers(256, size=(3, 4, 84, 84), dtype=np.uint8)
    actions, _ = agent.predict(observations)
    np.testing.assert_array_equal(actions, loaded.predict(observations)[0])


def test_fine_tunes(
    params: Params,
    write: Callable[..., Path],
    write_store: Callable[..., Path],
    make_random_episodes: Callable[..., list],
    tmp_path: Path,
) -> None:
    path = write((params, {}))
    store = write_store(tmp_path / "Pong", "Pong", make_random_episodes([20]))
    with pytest.raises(ValueError, match="another protocol"):
        from_released_checkpoint(path, device="cpu").learn([str(store)], steps=1)
    agent = from_released_checkpoint(path, protocol=AtariProtocol(), device="cpu")
    before = {name: tensor.clone() for name, tensor in agent.model.state_dict().items()}
    agent.learn([str(store)], steps=2, batch_size=2, warmup_steps=0)
    assert agent.games == ("Pong",)
    for name, tensor in agent.model.named_parameters():
        assert not torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_every_protocol(
    agent: DecisionTransformerAgent, params: Params, write: Callable[..., Path], protocol: int
) -> None:
    path = write((params, {"step": {"count": np.int64(3)}}), protocol)
    assert_same_weights(agent, from_released_checkpoint(path, device="cpu"))


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize(
    "convert",
    [
        np.asfortranarray,
        lambda array: array.astype(">f4"),
        # Axes in another order, which protocol 5 keeps.
        lambda array: np.moveaxis(np.moveaxis(array, -1, 0).copy(), 0, -1),
        np.float64,
    ],
    ids=["Fortran order", "big-endian", "other order", "float64"],
)
def test_other_forms_of_arrays(
    agent: DecisionTransformerAgent,
    params: Params,
    write: Callable[..., Path],
    convert: Callable[[np.ndarray], np.ndarray],
    protocol: int,
) -> None:
    converted = {
        module: {name: convert(leaf) for name, leaf in leaves.items()}
        for module, leaves in params.items()
    }
    path = write((converted, {}), protocol)
    assert_same_weights(agent, from_released_checkpoint(path, device="cpu"))


@pytest.mark.parametrize(
    ("module", "function"),
    [
        ("jax._src.array", "_reconstruct_array"),
        ("jax._src.device_array", "reconstruct_device_array"),
    ],
)
def test_arrays_of_jax(
    agent: DecisionTransformerAgent,
    params: Params,
    write: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    function: str,
) -> None:
    def reconstruct(*arguments: object) -> None:
        raise AssertionError("JAX was called")

    class JaxArray:
        """Pickled as JAX does it: by numpy's own `__reduce__`, and what JAX adds."""

        def __init__(self, value: np.ndarray) -> None:
            self.value = value

        def __reduce__(self) -> tuple:
            added = {"weak_type": False, "named_shape": {}}
            return reconstruct, (*self.value.__reduce__(), added)

    reconstruct.__module__, reconstruct.__qualname__ = module, function
    stub = types.ModuleType(module)
    setattr(stub, function, reconstruct)
    for name in ("jax", "jax._src", module):
        monkeypatch.setitem(sys.modules, name, stub)
    wrapped = {
        name: {leaf: JaxArray(array) for leaf, array in leaves.items()}
        for name, leaves in params.items()
    }
    path = write((wrapped, {}))
    assert_same_weights(agent, from_released_checkpoint(path, device="cpu"))


def test_array_that_jax_wrote() -> None:
    pickled = _ArrayUnpickler(io.BytesIO(BY_JAX)).load()
    np.testing.assert_array_equal(pickled.array, np.array([0, 1], np.float32), strict=True)


class Call:
    """Pickled as the call of a function."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def stack_global(module: str, name: str, *arguments: str) -> bytes:
    """Return a pickle that calls a name by protocol 4, which resolves dots in it."""
    texts = [b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name, *arguments)]
    return b"\x80\x04" + texts[0] + texts[1] + b"\x93(" + b"".join(texts[2:]) + b"tR."


RAN = "ran"
"""A folder that the pickles below make, if they can."""


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        (Call(os.system, f"mkdir {RAN}"), "system"),
        (Call(os.mkdir, RAN), "mkdir"),
        (Call(eval, f"__import__('os').mkdir({RAN!r})"), "eval"),
        (Call(getattr, "text", "format"), "getattr"),
        (Call(np.save, RAN, 0), "save"),
        (Call(np.fromfile, RAN), "fromfile"),
        ((Call(np.dtype, "f4"), Call(os.mkdir, RAN)), "mkdir"),
        (Path("x"), "Path"),
        ({1, 2}.__iter__(), "iter"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_calls_are_refused(
    write: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: object,
    asked: str,
    protocol: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write((content, {}), protocol)
    with pytest.raises(AgentLoadError, match=rf"it asks for '\S*{asked}\S*', .* not called"):
        from_released_checkpoint(path)
    assert os.listdir() == ["checkpoint.pkl"]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("numpy", "core.multiarray.os.mkdir"),
        ("numpy", "dtype.__init__.__globals__"),
        ("numpy.dtype", "__class__"),
        ("os", "mkdir"),
    ],
)
def test_dotted_names_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoint.pkl"
    path.write_bytes(stack_global(module, name, RAN))
    with pytest.raises(AgentLoadError, match=f"it asks for '{module}.{name}'"):
        from_released_checkpoint(path)
    assert os.listdir() == ["checkpoint.pkl"]


def test_registered_extensions_are_refused(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copyreg.add_extension(os.mkdir.__module__, "mkdir", 0xF0)
    try:
        path = write((Call(os.mkdir, RAN), {}))
        assert b"mkdir" not in path.read_bytes()
        with pytest.raises(AgentLoadError, match=r"it asks for '\w+\.mkdir'"):
            from_released_checkpoint(path)
    finally:
        copyreg.remove_extension(os.mkdir.__module__, "mkdir", 0xF0)
    assert os.listdir() == ["checkpoint.pkl"]


@pytest.mark.parametrize("name", _STAND_INS)
@pytest.mark.parametrize("attribute", ["__defaults__", "__call__", "__setstate__"])
def test_stand_ins_cannot_be_changed(tmp_path: Path, name: str, attribute: str) -> None:
    path = tmp_path / "checkpoint.pkl"
    module, _, function = name.rpartition(".")
    # Opcode b sets attributes: here of what the pickle named.
    state = pickle.dumps((None, {attribute: ()}), 2)[2:-1]
    path.write_bytes(f"c{module}\n{function}\n".encode() + state + b"b.")
    with pytest.raises(AgentLoadError, match="Expected a pickle of arrays alone"):
        from_released_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.array([None]), "arrays of numbers, got 'O8'"),
        (np.array(["text"]), "arrays of numbers, got 'U4'"),
        (np.zeros(2, [("x", "f4")]), "arrays of numbers, got 'V4'"),
        ({}, r"to hold \(params, state\)"),
        (({"a": 1}, {}), r"to hold \(params, state\)"),
        (({"a": {"w": [1.0]}}, {}), r"to hold \(params, state\).*'list'"),
        ((np.zeros(3), {}), r"to hold \(params, state\)"),
        (({}, {}), "does not hold the released model: width must be .* got 0"),
    ],
    ids=str,
)
def test_other_contents_are_refused(
    write: Callable[..., Path], content: object, message: str
) -> None:
    with pytest.raises(AgentLoadError, match=message):
        from_released_checkpoint(write(content))


def test_broken_files_are_refused(params: Params, write: Callable[..., Path]) -> None:
    path = write((params, {}))
    whole = path.read_bytes()
    for broken in (whole[:-1], whole[: len(whole) // 2], b"", b"PK\x03\x04", b"{}"):
        path.write_bytes(broken)
        with pytest.raises(AgentLoadError, match=r"Expected a pickle of arrays alone, and .*pkl"):
            from_released_checkpoint(path)
    with pytest.raises(AgentLoadError, match=r"Cannot read .*nothing\.pkl: No such file"):
        from_released_checkpoint(path.with_name("nothing.pkl"))
    with pytest.raises(AgentLoadError, match=r"Cannot read .*: Is a directory"):
        from_released_checkpoint(path.parent)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_weights_that_are_not_finite_are_refused(
    params: Params, write: Callable[..., Path], value: float
) -> None:
    weight = params[f"{TOP}/ret_linear"]["w"].astype(np.float64)
    weight[3, 5] = value
    params[f"{TOP}/ret_linear"]["w"] = weight
    with pytest.raises(AgentLoadError, match=r"ret_linear/w is not finite in fp32"):
        from_released_checkpoint(write((params, {})), device="cpu")


@pytest.mark.parametrize(
    ("module", "name", "shape", "message"),
    [
        (f"{TOP}/ret_linear", "w", (128, 121), r"ret_linear/w is \(128, 121\).*\(128, 120\)"),
        (f"{TOP}/act_linear", "b", (6,), r"act_linear/b is \(6,\), expected \(18,\)"),
        (f"{TOP}/~/sequence/h1_mlp/linear", "w", (512, 128), r"\(512, 128\).*\(128, 512\)"),
        (f"{TOP}/~/sequence/h1_mlp/linear", "w", None, r"linear/w is missing.*\(128, 512\)"),
        (f"{TOP}/~/sequence/h1_ln_1", "scale", None, "model of 1 layers .* no such array"),
        (f"{TOP}/~/sequence/ln_f", "scale", (64,), "model of 2 layers and width 64 in 4. arrays"),
        (f"{TOP}/~/sequence/ln_f", "scale", (100,), "multiple of 64, got 100"),
        (f"{TOP}/~/sequence/ln_f", "scale", (2**20,), "width 1048576 in"),
        (f"{TOP}/val_linear", "w", (128, 51), r"val_linear/w is \(128, 51\).* no such array"),
    ],
)
def test_other_shapes_are_refused(
    params: Params,
    write: Callable[..., Path],
    module: str,
    name: str,
    shape: tuple[int, ...] | None,
    message: str,
) -> None:
    if shape is None:
        del params[module][name]
    else:
        params.setdefault(module, {})[name] = np.zeros(shape, np.float32)
    with pytest.raises(AgentLoadError, match=message):
        from_released_checkpoint(write((params, {})))
