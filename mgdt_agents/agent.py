"""What every agent can do: predict, learn, save, load."""

import dataclasses
import importlib
import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from typing_extensions import Self

from mgdt_agents.agent_files import (
    CHECKSUM,
    check_games,
    check_options,
    load_weights,
    read_config,
    saved_tensors,
    write_folder,
)
from mgdt_agents.config_checks import config_of
from mgdt_agents.devices import resolve_device
from mgdt_agents.errors import AgentLoadError
from mgdt_agents.random_streams import RowStreams
from mgdt_agents.replay.sampler import WindowBatch, WindowSampler
from mgdt_agents.step_inputs import (
    State,
    StepInputs,
    as_games,
    as_given,
    as_streams,
    checked_inputs,
    games_of_agent,
)
from mgdt_envs import AtariProtocol, __version__
from mgdt_envs.emulator import NUM_ACTIONS
from mgdt_envs.errors import InvalidArgument
from mgdt_envs.protocol import AnyProtocol, as_protocol

ACTION_SPACE = spaces.Discrete(NUM_ACTIONS)


class Agent(ABC):
    """A policy for `MultiGameAtari-v0` that takes stable-baselines3's place in `evaluate_policy`.

    Attributes:
        kind: the name under which saved agents are found again.
        games: the games that the agent was trained on.
        protocol: the rules it was trained under.
        protocol_is_assumed: whether `protocol` is the default for want of a known one.
    """

    kind: ClassVar[str]
    protocol_is_assumed: bool = False

    def __init__(self, games: str | Sequence[str] = (), protocol: AnyProtocol = None) -> None:
        self.games = games_of_agent(games)
        self.protocol = as_protocol(protocol)
        self.observation_space = spaces.Box(0, 255, self.protocol.observation_shape, np.uint8)
        self.action_space = ACTION_SPACE
        self._seed = self._calls = 0

    def set_random_seed(self, seed: int | None) -> None:
        """Begin the streams that `predict` draws from anew; None leaves them as they are."""
        if seed is not None:
            self._seed, self._calls = operator.index(seed), 0

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: State | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        *,
        reward: np.ndarray | float | None = None,
        stream: np.ndarray | None = None,
        game: str | Sequence[str] | None = None,
    ) -> tuple[np.ndarray, State | None]:
        """Choose an action for one observation or for each of a batch.

        This is stable-baselines3's `predict`, with three additions.

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
            game: the game that all rows play, or each; None if unknown. Agents that read it leave
                out the actions that the game does not have.

        Returns:
            actions: int64 full-set ids, `()` for one observation and `(n,)` for a batch.
            state: to be handed to the next call; None for an agent without memory.

        Raises:
            ValueError: for a wrong shape or dtype, a state or mask of another batch size, rewards
                that are not finite, or another agent's state.
            TypeError: for anything but an array.
        """
        checked = checked_inputs(self, observation, state, episode_start, reward)
        rows = len(checked[0])
        streams = as_streams(stream, rows, self._calls)
        self._calls += 1
        names = None if game is None else as_games(game, rows)
        inputs = StepInputs(*checked, names, deterministic, RowStreams(self._seed, *streams.T))
        actions, state = self._act(inputs)
        return as_given(actions, observation), state  # type: ignore[arg-type]

    @property
    def memory(self) -> tuple[int, ...] | None:
        """Columns of each part of the state, whose shapes are `(n, columns)`.

        () is no state at all; None is a state of other shapes, of which only the rows are checked.
        """
        return None

    def with_actions(self, state: State | None, actions: np.ndarray) -> State | None:
        """Return the state as if `predict` had chosen other actions.

        Args:
            state: what `predict` returned.
            actions: `(n,)` int64 full-set ids that were played instead, by a person for example.
        """
        return state

    def identity(self) -> str | None:
        """Return what decides how the agent acts, besides its kind and the weights of a network.

        None where nobody says: then no episode of another object is taken for one of this.
        """
        return None

    @abstractmethod
    def _act(self, inputs: StepInputs) -> tuple[np.ndarray, State | None]:
        """Return `(n,)` int64 actions and the new state."""

    def known_protocol(self) -> AtariProtocol:
        """Return the rules that the agent was trained under.

        Raises:
            ValueError: if it does not say.
        """
        if self.protocol_is_assumed:
            raise InvalidArgument(
                f"The {self.kind} agent does not say under which protocol it was trained: load it "
                "with load_agent(path, protocol=AtariProtocol(...))."
            )
        return self.protocol

    def check_spaces(self, env: Any) -> None:
        """Raise `AgentLoadError` if the spaces of `env`, vectorized or not, are not the agent's.

        None fits every agent.
        """
        for name in ("observation_space", "action_space") if env is not None else ():
            found = getattr(env, f"single_{name}", None) or getattr(env, name)
            if found != (own := getattr(self, name)):
                raise AgentLoadError(
                    f"The environment's {name} does not match the agent's: {found} is not {own}."
                )


class NetworkAgent(Agent):
    """An agent that is a network: it learns from windows of replay and is saved as a folder.

    Attributes:
        config: the sizes of the network; a frozen dataclass.
        model: the network.
        device: where it computes.
        trained_windows: training windows that it has seen; None if that is not known.
        loaded_checksum: SHA-256 of the weights' file that it was loaded from; None if it is new.
    """

    config_class: ClassVar[type]
    """If it has a `frame_stack` and a `frame_size`, they must be the protocol's."""
    presets: ClassVar[dict[str, Any]]
    settings: ClassVar[tuple[str, ...]] = ()
    """Attributes that are saved, numbers, and keyword arguments of the same names."""
    target: nn.Module | None = None
    """A copy of the network, every `config.target_period` steps, whose values are learned from."""
    trained_windows: int | None = 0
    loaded_checksum: str | None = None

    def __init__(
        self,
        config: Any,
        *,
        games: str | Sequence[str] = (),
        protocol: AnyProtocol = None,
        device: str | torch.device = "auto",
    ) -> None:
        """Make the agent that `config` describes (a preset's name, too), randomly initialized."""
        super().__init__(games, protocol)
        self.config = config = config_of(type(self), config)
        if hasattr(config, "frame_stack"):
            frames, size, _ = self.protocol.observation_shape
            if (config.frame_stack, config.frame_size) != (frames, size):
                raise InvalidArgument(
                    f"The network reads {config.frame_stack} frames of {config.frame_size} pixels, "
                    f"the protocol gives {frames} of {size}."
                )
        self.device = resolve_device(device)
        self.model = self._make_model().to(self.device)

    @classmethod
    def preset(cls, size: str) -> Any:
        """Return the config of a size.

        Raises:
            ValueError: if there is no such size. The message suggests the nearest.
        """
        return config_of(cls, size)

    @property
    def has_parts_of_games(self) -> bool:
        """Whether parts of the network belong to one of `games` each, in their order."""
        return False

    @abstractmethod
    def _make_model(self) -> nn.Module:
        """Return the network of `self.config`."""

    def loss(self, batch: WindowBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch, and figures to log, all scalars on the device."""
        raise InvalidArgument(f"Agents of kind {self.kind!r} learn by playing, not from replay.")

    @property
    def windows(self) -> dict[str, Any]:
        """Keyword arguments of the `WindowSampler` that draws its batches."""
        return {"steps": self.protocol.stack}

    def begin_training(self, sampler: WindowSampler) -> None:
        """Fit the agent to the replay, before the optimizer is made and the first batch is drawn.

        Raises:
            ValueError: if it cannot learn from it.
        """
        self.games = sampler.games

    def after_step(self, step: int) -> None:
        """Do what the agent does after `step` gradient steps; 0 is before the first.

        Where training resumes, it is called once more. A target network is renewed when it is time.
        """
        if self.target is not None and step % self.config.target_period == 0:
            self.target.load_state_dict(self.model.state_dict())

    @property
    def stages(self) -> tuple[int, ...]:
        """Steps after which stages of training begin; they may leave parts of the network alone."""
        return (0,)

    def training_modules(self) -> dict[str, nn.Module]:
        """Return the networks that training must keep to be resumed."""
        target = {} if self.target is None else {"target": self.target}
        return {"model": self.model, **target}

    def learn(self, replay: Path | Sequence[str | Path], steps: int, **options: Any) -> Self:
        """Train on replay stores for `steps` gradient steps, and return the agent.

        Args:
            replay: folders of replay stores, or one folder.
            steps: gradient steps.
            options: fields of `mgdt_agents.training.TrainingConfig`.
        """
        # By name: the trainer is above the agents and imports them.
        training = importlib.import_module("mgdt_agents.training")
        config = training.TrainingConfig(replay=replay, steps=steps, **options)
        training.train(self, config)
        return self

    @classmethod
    def from_pretrained(cls, repo_id: str | Path, **options: Any) -> Self:
        """Return the agent in a repository of the Hugging Face hub, or in a folder.

        The options are those of `mgdt_agents.hub.from_pretrained`.
        """
        return importlib.import_module("mgdt_agents.hub").from_pretrained(cls, repo_id, **options)

    def save_pretrained(self, path: str | Path, **options: Any) -> None:
        """Write the folder `path` as the hub has it; see `mgdt_agents.hub.save_pretrained`."""
        importlib.import_module("mgdt_agents.hub").save_pretrained(self, path, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the agent and return the commit's address; see `mgdt_agents.hub.push_to_hub`."""
        return importlib.import_module("mgdt_agents.hub").push_to_hub(self, repo_id, **options)

    def identity(self) -> str | None:
        """Return the network's sizes and what else is saved."""
        return f"{self.config} {self._options_to_save()}"

    def _to_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)

    def save(
        self, path: str | Path, card: str | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        """Write the folder `path`: `config.json`, `model.safetensors` and `card.md`.

        Args:
            path: a folder; an agent that it holds is replaced.
            card: text of `card.md`; None leaves an existing card, or writes a minimal one.
            dtype: of the weights in the file, a floating one; bf16 halves it and rounds them. What
                is no weight, such as statistics, keeps its own.

        Raises:
            ValueError: for a dtype that is not floating, or a file in the folder's place.
        """
        content = {
            "agent": self.kind,
            "mgdt_version": __version__,
            "games": self.games,
            "protocol": self.protocol.to_dict(),
            "config": dataclasses.asdict(self.config),
            "trained_windows": self.trained_windows,
            **self._options_to_save(),
        }
        write_folder(Path(path), content, saved_tensors(self.model, dtype), card)

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
            ValueError: for a device that is not there, an option that the agent has not, or other
                games where parts of the network belong to games.
        """
        path = Path(path)
        content = read_config(path)
        if content["agent"] != cls.kind:
            raise AgentLoadError(
                f"{path} holds an agent of kind {content['agent']!r}, expected {cls.kind!r}; "
                "load_agent() loads every kind."
            )
        check_options(cls, options)
        device = resolve_device(device)
        try:
            config = cls.config_class(**content["config"])
            saved = {
                "games": games_of_agent(content["games"]),
                "protocol": AtariProtocol.from_dict(content["protocol"]),
                **cls._saved_options(content),
            }
        except (TypeError, ValueError) as error:
            raise AgentLoadError(f"{path / 'config.json'} cannot be used: {error}") from error
        agent = cls(config, device=device, **saved | options)
        check_games(path, saved["games"], agent)
        load_weights(path, agent.model, content)
        agent.model.eval()
        agent.trained_windows = content.get("trained_windows")
        agent.loaded_checksum = content.get(CHECKSUM)
        agent.check_spaces(env)
        return agent

    def changed(
        self,
        config: Any = None,
        protocol: AtariProtocol | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> Self:
        """Return a copy of the agent with another config, protocol or weights.

        Args:
            config: of a network whose weights have the same shapes.
            protocol: the rules that it is for.
            weights: of the network, by name.

        Raises:
            ValueError: if the weights do not fit `config`.
        """
        agent = type(self)(
            config or self.config,
            games=self.games,
            protocol=protocol or self.protocol,
            device=self.device,
            **self._saved_options(self._options_to_save()),
        )
        try:
            agent.model.load_state_dict(weights or self.model.state_dict())
        except RuntimeError as error:
            raise InvalidArgument(
                f"The weights do not fit the network; expected those of {agent.config}: {error}"
            ) from error
        agent.trained_windows = self.trained_windows
        agent.loaded_checksum = self.loaded_checksum
        return agent

    def _options_to_save(self) -> dict[str, Any]:
        """Return what `config.json` says of the agent besides its network, as JSON types."""
        return {name: getattr(self, name) for name in self.settings}

    @classmethod
    def _saved_options(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments of the agent in what `_options_to_save` returned."""
        return {name: content[name] for name in cls.settings if name in content}
