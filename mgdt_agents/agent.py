"""What every agent can do: predict, learn, save, load."""

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typing_extensions import Self

from mgdt_agents.errors import AgentLoadError
from mgdt_agents.hub import HubMethods
from mgdt_agents.random_streams import RowStreams
from mgdt_agents.replay.sampler import WindowBatch
from mgdt_envs import AtariProtocol, __version__
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.games import did_you_mean

State = tuple[np.ndarray, ...]

ACTION_SPACE = spaces.Discrete(18)


class Agent(ABC):
    """A policy for `MultiGameAtari-v0` that takes stable-baselines3's place in `evaluate_policy`.

    Attributes:
        kind: the name under which saved agents are found again.
        games: the games that the agent was trained on.
        protocol: the rules it was trained under.
        draws: the random streams of the rows that `predict` was last called with.
    """

    kind: ClassVar[str]

    def __init__(self, games: Sequence[str] = (), protocol: AtariProtocol | None = None) -> None:
        """Make an agent for `games` under `protocol`."""
        self.games = tuple(games)
        self.protocol = protocol or AtariProtocol()
        side = self.protocol.screen_size
        self.observation_space = spaces.Box(0, 255, (self.protocol.stack, side, side), np.uint8)
        self.action_space = ACTION_SPACE
        self._seed = self._calls = 0

    def set_random_seed(self, seed: int) -> None:
        """Begin the streams that `predict` draws from anew."""
        self._seed = seed
        self._calls = 0

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: State | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        *,
        reward: np.ndarray | float | None = None,
        stream: np.ndarray | None = None,
    ) -> tuple[np.ndarray, State | None]:
        """Choose an action for one observation or for each of a batch.

        This is stable-baselines3's `predict`, with two additions.

        Args:
            observation: `(4, 84, 84)` or `(n, 4, 84, 84)` uint8, the last frames, oldest first.
                A dictionary is only part of the type to be stable-baselines3's; it is refused.
            state: what the last call returned; None begins new episodes.
            episode_start: `(n,)` bool, rows that begin an episode; their state is forgotten.
            deterministic: take the likeliest action instead of drawing one.
            reward: `(n,)`, what each row's last action brought, unclipped; None if unknown. Agents
                that read no rewards ignore it.
            stream: `(n, 2)` int64, the number of each row's random stream and the step in it, which
                with the seed alone make what the row draws. None: the number of the row, and of the
                call since `set_random_seed`.

        Returns:
            actions: int64 full-set ids, `()` for one observation and `(n,)` for a batch.
            state: to be handed to the next call; None for an agent without memory.

        Raises:
            ValueError: for a wrong shape or dtype, a state or mask of another batch size, or
                another agent's state.
            TypeError: for anything but an array.
        """
        batch, state, starts, rewards = self._checked(observation, state, episode_start, reward)
        if stream is None:
            stream = np.stack(
                [np.arange(len(batch)), np.full(len(batch), self._calls, np.int64)], 1
            )
        elif np.shape(stream) != (len(batch), 2):
            raise InvalidArgument(
                f"Expected stream of shape ({len(batch)}, 2), got {np.shape(stream)}."
            )
        self._calls += 1
        self.draws = RowStreams(self._seed, stream[:, 0], stream[:, 1])
        actions, state = self._act(batch, state, starts, rewards, deterministic)
        return (actions if batch is observation else actions[0, ...]), state

    def _checked(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: State | None,
        episode_start: np.ndarray | None,
        reward: np.ndarray | float | None,
    ) -> tuple[np.ndarray, State | None, np.ndarray, np.ndarray]:
        """Return the checked arguments of `predict`: batch, state, starts and rewards."""
        batch = self._as_batch(observation)
        starts = np.full(len(batch), state is None)
        if episode_start is not None:
            starts = starts | self._as_row(episode_start, len(batch), "episode_start").astype(bool)
        if starts.all():
            state = None
        if state is not None:
            self._check_state(state, len(batch))
        rewards = np.zeros(len(batch))
        if reward is not None:
            rewards = self._as_row(reward, len(batch), "reward")
        return batch, state, starts, rewards

    def _check_state(self, state: State, rows: int) -> None:
        shapes = [np.shape(part) for part in state]
        if self.memory is not None and [shape[1:] for shape in shapes] != [
            (columns,) for columns in self.memory
        ]:
            expected = [f"(n, {columns})" for columns in self.memory]
            raise InvalidArgument(
                f"The state is not of this {self.kind} agent: expected arrays of shapes "
                f"[{', '.join(expected)}], got {shapes}. Pass what its predict() last returned."
            )
        if any(shape[:1] != (rows,) for shape in shapes):
            raise InvalidArgument(
                f"The state is of {len(state[0])} rows and the observation of {rows}. When the "
                "number of environments changes, pass state=None, or an episode_start that is "
                "true for every row."
            )

    def _as_batch(self, observation: np.ndarray | dict[str, np.ndarray]) -> np.ndarray:
        shape = self.observation_space.shape
        if isinstance(observation, tuple) and len(observation) == 2:
            raise InvalidArgument(
                "The observation is a tuple of two: `env.reset()` returns (observation, info) and "
                "predict() takes the observation alone: `obs, info = env.reset()`."
            )
        if not isinstance(observation, np.ndarray):
            raise TypeError(
                f"Expected the observation to be a numpy array of uint8 and shape {shape} or "
                f"(n, *{shape}), got {type(observation).__name__}."
            )
        if observation.dtype != np.uint8:
            raise InvalidArgument(
                f"Expected an observation of dtype uint8 with values 0 to 255, got "
                f"{observation.dtype}. Frames are not scaled before predict()."
            )
        if observation.shape != shape and observation.shape[1:] != shape:
            raise InvalidArgument(
                f"Unexpected observation shape {observation.shape}: expected {shape} "
                f"(frames first, oldest first) or (n, {', '.join(map(str, shape))})."
            )
        if not len(observation):
            raise InvalidArgument("Expected at least one observation, got an empty batch.")
        return observation if observation.ndim == 4 else observation[None]

    @staticmethod
    def _as_row(values: np.ndarray | float, size: int, name: str) -> np.ndarray:
        row = np.atleast_1d(np.asarray(values))
        if row.shape != (size,):
            raise InvalidArgument(f"Expected {name} of shape ({size},), got {row.shape}.")
        return row

    @property
    def memory(self) -> tuple[int, ...] | None:
        """Columns of each part of the state, whose shapes are `(n, columns)`.

        () is no state at all; None is a state of other shapes, of which the rows are checked.
        """
        return None

    def with_actions(self, state: State | None, actions: np.ndarray) -> State | None:
        """Return the state as if `predict` had chosen other actions.

        Args:
            state: what `predict` returned.
            actions: `(n,)` int64 full-set ids that were played instead, by a person for example.
        """
        return state

    @abstractmethod
    def _act(
        self,
        observations: np.ndarray,
        state: State | None,
        starts: np.ndarray,
        rewards: np.ndarray,
        deterministic: bool,
    ) -> tuple[np.ndarray, State | None]:
        """Return `(n,)` int64 actions and the new state; the arguments are checked."""

    def check_spaces(self, env: gym.Env) -> None:
        """Raise `AgentLoadError` if the spaces of `env` are not the agent's."""
        for name in ("observation_space", "action_space"):
            if (found := getattr(env, name)) != (expected := getattr(self, name)):
                raise AgentLoadError(
                    f"The environment's {name} does not match the agent's: "
                    f"{found} is not {expected}."
                )


class NetworkAgent(HubMethods, Agent):
    """An agent that is a network: it learns from windows of replay and is saved as a folder.

    Attributes:
        config: the sizes of the network; a frozen dataclass.
        model: the network.
        device: where it computes.
    """

    config_class: ClassVar[type]
    presets: ClassVar[dict[str, Any]]

    def __init__(
        self,
        config: Any,
        *,
        games: Sequence[str] = (),
        protocol: AtariProtocol | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        """Make the agent that `config` describes (a preset's name, too), randomly initialised."""
        super().__init__(games, protocol)
        if isinstance(config, str):
            if config not in self.presets:
                raise InvalidArgument(
                    f"Unknown size {config!r} of {self.kind}. {did_you_mean(config, self.presets)}"
                )
            config = self.presets[config]
        self.config = config
        self.device = torch.device(
            ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        )
        self.model = self._make_model().to(self.device)

    @abstractmethod
    def _make_model(self) -> nn.Module:
        """Return the network of `self.config`."""

    def loss(self, batch: WindowBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch, and figures to log, all scalars on the device."""
        raise InvalidArgument(f"Agents of kind {self.kind!r} learn by playing, not from replay.")

    @property
    def future(self) -> int:
        """Rows of a training window after the step that is learned."""
        return 0

    def after_step(self, step: int) -> None:
        """Do what the agent does after `step` gradient steps; 0 is before the first."""

    def training_modules(self) -> dict[str, nn.Module]:
        """Return the networks that training must keep to be resumed."""
        return {"model": self.model}

    def learn(self, replay: Sequence[str | Path], steps: int, **options: Any) -> Self:
        """Train on replay stores for `steps` gradient steps, and return the agent.

        Args:
            replay: folders of replay stores.
            steps: gradient steps.
            options: fields of `mgdt_agents.training.TrainingConfig`.
        """
        # The trainer imports the agents.
        from mgdt_agents.training import TrainingConfig, train

        train(self, TrainingConfig(replay=tuple(map(Path, replay)), steps=steps, **options))
        return self

    def _to_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)

    def save(
        self, path: str | Path, card: str | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        """Write the folder `path`: `config.json`, `model.safetensors` and `card.md`.

        Args:
            path: a folder; an agent that it holds is replaced.
            card: text of `card.md`; None leaves an existing card, or writes a minimal one.
            dtype: of the weights in the file; bf16 halves it and rounds them.
        """
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        content = {
            "agent": self.kind,
            "mgdt_version": __version__,
            "games": self.games,
            "protocol": self.protocol.to_dict(),
            "config": dataclasses.asdict(self.config),
            **self._options_to_save(),
        }
        (path / "config.json").write_text(json.dumps(content, indent=2) + "\n")
        tensors = {
            name: tensor.detach().to("cpu", dtype).contiguous()
            for name, tensor in self.model.state_dict().items()
        }
        save_file(tensors, path / "model.safetensors")
        if card is not None or not (path / "card.md").exists():
            card = card or f"# {self.kind}\n\nTrained on: {', '.join(self.games) or 'nothing'}.\n"
            (path / "card.md").write_text(card)

    @classmethod
    def load(
        cls,
        path: str | Path,
        env: gym.Env | None = None,
        device: str | torch.device = "auto",
        **options: Any,
    ) -> Self:
        """Return the agent saved in the folder `path`.

        Args:
            path: what `save` wrote.
            env: an environment that the agent shall fit; its spaces are compared.
            device: where to compute; "auto" takes a GPU if there is one.
            options: keyword arguments of the agent in place of the saved ones, such as `rule`.

        Raises:
            AgentLoadError: if the folder holds no agent of this class, or it does not fit `env`.
        """
        path = Path(path)
        content = read_config(path)
        if content["agent"] != cls.kind:
            raise AgentLoadError(
                f"{path} holds an agent of kind {content['agent']!r}, expected {cls.kind!r}; "
                "load_agent() loads every kind."
            )
        try:
            agent = cls(
                cls.config_class(**_lists_as_tuples(content["config"])),
                games=content["games"],
                protocol=AtariProtocol.from_dict(content["protocol"]),
                device=device,
                **{**cls._saved_options(content), **options},
            )
            agent.model.load_state_dict(load_file(path / "model.safetensors"))
        except FileNotFoundError as error:
            raise AgentLoadError(f"{path} has no model.safetensors.") from error
        except SafetensorError as error:
            raise AgentLoadError(f"{path / 'model.safetensors'} is damaged: {error}") from error
        except (TypeError, ValueError, RuntimeError) as error:
            raise AgentLoadError(f"{path} does not fit its config.json: {error}") from error
        agent.model.eval()
        if env is not None:
            agent.check_spaces(env)
        return agent

    def changed(
        self,
        config: Any = None,
        protocol: AtariProtocol | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> Self:
        """Return a copy of the agent in which what is given is otherwise.

        Args:
            config: of a network whose weights have the same shapes.
            protocol: the rules that it is for.
            weights: of the network, by name.

        Raises:
            ValueError: if the weights do not fit `config`.
        """
        options = self._saved_options(self._options_to_save())
        agent = type(self)(
            config or self.config,
            games=self.games,
            protocol=protocol or self.protocol,
            device=self.device,
            **options,
        )
        try:
            agent.model.load_state_dict(weights or self.model.state_dict())
        except RuntimeError as error:
            raise InvalidArgument(
                f"The weights do not fit the network; expected those of {agent.config}: {error}"
            ) from error
        return agent

    def _options_to_save(self) -> dict[str, Any]:
        """Return what `config.json` says of the agent besides its network, as JSON types."""
        return {}

    @classmethod
    def _saved_options(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments of the agent in what `_options_to_save` returned."""
        return {}


def read_config(path: Path) -> dict[str, Any]:
    """Return the content of `config.json` in the folder of a saved agent.

    Raises:
        AgentLoadError: if there is none, or it is not an agent's.
    """
    try:
        content = json.loads((path / "config.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise AgentLoadError(
            f"Expected a saved agent at {path}: a folder with config.json, and there is none."
        ) from None
    except json.JSONDecodeError as error:
        raise AgentLoadError(f"{path / 'config.json'} is not JSON: {error}") from error
    expected = {"agent": str, "games": list, "protocol": dict, "config": dict}
    for name, kind in expected.items():
        if not isinstance(content, dict) or not isinstance(content.get(name), kind):
            raise AgentLoadError(
                f"{path / 'config.json'} is no agent's: expected a {kind.__name__} {name!r} in it."
            )
    return content


def _lists_as_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a frozen config; JSON has no tuples."""
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
