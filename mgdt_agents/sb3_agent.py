"""Any stable-baselines3 model of this observation and action space as an agent."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from mgdt_agents.agent import Agent
from mgdt_agents.agent_files import check_options
from mgdt_agents.devices import resolve_device
from mgdt_agents.errors import AgentLoadError
from mgdt_agents.random_streams import explored, sample
from mgdt_agents.replay.files import make_folder, written
from mgdt_agents.step_inputs import State, StepInputs, games_of_agent
from mgdt_envs import AtariProtocol
from mgdt_envs.protocol import AnyProtocol, as_protocol


class SB3Agent(Agent):
    """Plays with a stable-baselines3 model: the DQN baseline, PPO, A2C.

    Games, protocol and actions become attributes of the model, so that its zip file has them. For
    what is not given, those of the model count, and for a model from elsewhere all 18 actions.

    Args:
        model: the model, of the suite's observation space.
        games: the games that it was trained on.
        protocol: the rules it was trained under.
        actions: full-set ids of the model's actions.

    Attributes:
        protocol_is_assumed: whether nobody said what the protocol was, and it is the default.
    """

    kind = "sb3"

    def __init__(
        self,
        model: BaseAlgorithm,
        *,
        games: str | Sequence[str] | None = None,
        protocol: AnyProtocol = None,
        actions: Sequence[int] | None = None,
    ) -> None:
        given = {
            "games": None if games is None else list(games_of_agent(games)),
            "protocol": None if protocol is None else as_protocol(protocol).to_dict(),
            "actions": None if actions is None else list(actions),
        }
        known = getattr(model, "mgdt", {})
        known = known | {name: value for name, value in given.items() if value is not None}
        self.protocol_is_assumed = "protocol" not in known
        super().__init__(
            known.get("games", ()),
            None if self.protocol_is_assumed else AtariProtocol.from_dict(known["protocol"]),
        )
        self.actions = np.array(known.get("actions", range(18)))
        expected = {
            "observation_space": self.observation_space,
            "action_space": gym.spaces.Discrete(len(self.actions)),
        }
        for name, space in expected.items():
            if (found := getattr(model, name)) != space:
                raise AgentLoadError(
                    f"Expected a model whose {name} is {space}, got {found}. "
                    "Models are made with gym.make('MultiGameAtari-v0')."
                )
        self.model = model
        vars(model)["mgdt"] = known  # an attribute, which the model saves

    def save(self, path: str | Path) -> None:
        """Write the model to `model.zip` in the folder `path`; an older one is replaced.

        Raises:
            ReplayError: if it cannot be written; the older one stays.
        """
        path = Path(path)
        make_folder(path)
        with written(path / "model.zip") as new:
            self.model.save(new)

    @classmethod
    def load(
        cls,
        path: str | Path,
        env: gym.Env | None = None,
        device: str | torch.device = "auto",
        **options: Any,
    ) -> "SB3Agent":
        """Return the agent around the model that stable-baselines3 saved at `path`.

        A stable-baselines3 zip holds pickled objects: load only files that you trust.

        Args:
            path: the zip file.
            env: an environment that the model shall fit.
            device: where to compute.
            options: keyword arguments of the agent in place of what the zip says.

        Raises:
            AgentLoadError: for another file, an unknown algorithm, or other spaces.
            ValueError: for a device that is not there, or an option that the agent has not.
        """
        check_options(cls, options)
        device = resolve_device(device)
        algorithm = _algorithm_of(Path(path))
        try:
            # Whoever only plays needs no replay buffer, which can take gigabytes.
            model = algorithm.load(path, None, device, custom_objects={"buffer_size": 1})
        except (KeyError, RuntimeError, ValueError) as error:
            raise AgentLoadError(f"Cannot load {path}: {error}") from error
        agent = cls(model, **options)
        agent.check_spaces(env)
        return agent

    def set_random_seed(self, seed: int | None) -> None:
        """Seed the agent's streams, and the global generators that models of others draw from."""
        super().set_random_seed(seed)
        if seed is not None:
            self.model.set_random_seed(self._seed)

    def identity(self) -> str | None:
        """Return the algorithm, the share of random actions, and the actions."""
        exploration = getattr(self.model, "exploration_rate", 0.0)
        return f"{type(self.model).__qualname__} {exploration} {self.actions.tolist()}"

    @torch.no_grad()
    def _act(self, inputs: StepInputs) -> tuple[np.ndarray, State | None]:
        model = self.model
        if not inputs.deterministic and isinstance(model, PPO | A2C):
            # stable-baselines3 would draw all rows from one global generator.
            model.policy.set_training_mode(False)
            observations, _ = model.policy.obs_to_tensor(inputs.observations)
            policy: Any = model.policy.get_distribution(observations).distribution
            return self.actions[sample(policy.logits.cpu(), inputs.draws).numpy()], None
        greedy = inputs.deterministic or isinstance(model, DQN)
        chosen, state = model.predict(inputs.observations, inputs.state, inputs.starts, greedy)
        if not inputs.deterministic and isinstance(model, DQN):
            allowed = np.ones((len(chosen), len(self.actions)), bool)
            chosen = explored(chosen, allowed, model.exploration_rate, inputs.draws)
        return self.actions[chosen], state


def _algorithm_of(path: Path) -> type[BaseAlgorithm]:
    """Return the class that wrote a zip; it does not say so itself, its hyper-parameters do."""
    try:
        with zipfile.ZipFile(path) as file:
            data = json.loads(file.read("data"))
            policy = data["policy_class"]["__module__"]
    except (KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise AgentLoadError(f"{path} is no stable-baselines3 model: {error}") from error
    if policy.startswith("sb3_contrib"):
        raise AgentLoadError(
            f"{path} was written by sb3_contrib. Load it with its own class, then wrap it: "
            "mgdt_agents.sb3_agent.SB3Agent(model)."
        )
    if "exploration_fraction" in data:
        return DQN
    if "clip_range" in data:
        return PPO
    if "gae_lambda" in data:
        return A2C
    raise AgentLoadError(
        f"{path} is of an algorithm without discrete actions; expected DQN, PPO or A2C."
    )
