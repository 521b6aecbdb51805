"""IMPALA on one machine: several games, one set of weights, actors that lag behind the learner.

Espeholt et al. 2018 (arXiv 1802.01561) let hundreds of actors play with weights that are some
updates old, and correct what that does by V-trace. Here all environments are stepped in one
process, and the lag is stated. Numbers are those of the paper's table G.1, for Atari, but where a
setting says otherwise; `docs/agents.md` has them beside each other.
"""

import copy
import dataclasses
import json
import math
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mgdt_agents.action_sets import allowed_actions
from mgdt_agents.actor_critic.impala_agent import ImpalaAgent
from mgdt_agents.actor_critic.policy_losses import check_torchrl, policy_losses, vtrace
from mgdt_agents.actor_critic.policy_network import NO_ACTION, Memory, PolicyOutputs, masked_logits
from mgdt_agents.config_checks import check_choices, check_interval
from mgdt_agents.devices import uses_bf16
from mgdt_agents.online.learner import Learner, PlayedStep
from mgdt_envs.emulator import MAX_SEED
from mgdt_envs.errors import InvalidArgument


@dataclass(frozen=True, kw_only=True, slots=True)
class ImpalaLearnerConfig:
    """How IMPALA learns."""

    num_envs: int = 32
    """Environments played together, equally many of each game: rounded up to a multiple of the
    number of games."""
    unroll_length: int = 20
    """Steps of each environment between two updates."""
    batch_size: int = 4
    """Unrolls of a gradient step (the paper: 32, of a hundred times as many steps)."""
    actor_lag: int = 1
    """Updates by which the weights that play are behind those that learn. In the paper it is what
    the distance of the machines makes it."""
    rewards: Literal["clipped", "popart"] = "popart"
    """What is learned: rewards clipped to [-1, 1] (the paper), or the game's own, with values
    normalized for each game (PopArt, Hessel et al. 2019), so that no game drowns the others."""
    popart_rate: float = 3e-3
    """Weight of an update's values in PopArt's statistics (Hessel et al. 2019: 3e-4, of a thousand
    times as many updates)."""
    life_loss_ends: bool = True
    """A lost life is an end to the learner."""
    discount: float = 0.99
    """Of rewards a step later."""
    value_cost: float = 0.5
    """Weight of the value's loss."""
    entropy_cost: float = 0.01
    """Weight of the policy's entropy."""
    learning_rate: float = 6e-4
    """Of RMSProp, at first; it falls to 0 over all steps."""
    rmsprop_decay: float = 0.99
    """Of RMSProp's mean of squares."""
    rmsprop_epsilon: float = 1e-3
    """Added to RMSProp's root of it (the paper: 0.01, added to the mean, as TensorFlow does)."""
    max_gradient_norm: float = 40.0
    """Larger gradients are scaled to this norm; 0 leaves them as they are."""
    size: str = "small"
    """Network: "small", or "deep" of the paper."""
    lstm: int = 0
    """Units of an LSTM after it (the paper: 256, or none); 0 is none."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the ResNet; "auto" is bf16 on a GPU and on a CPU that has AMX or AVX512-BF16, and else
    fp32."""
    seed: int = 0
    """Of the network, the actions and the environments."""

    def __post_init__(self) -> None:
        sizes = ("actor_lag", "lstm", "learning_rate", "rmsprop_epsilon", "max_gradient_norm")
        check_choices(self)
        check_interval(self, "[1, inf)", "num_envs", "unroll_length")
        check_interval(self, "[0, inf)", *sizes, "value_cost", "entropy_cost")
        check_interval(self, "[0, 1]", "discount", "rmsprop_decay", "popart_rate")
        check_interval(self, f"[1, {self.num_envs}]", "batch_size")
        check_interval(self, f"[0, {MAX_SEED - self.num_envs}]", "seed")
        ImpalaAgent.preset(self.size)


class Unroll(NamedTuple):
    """What N environments saw, did and got in T steps, and what they saw next."""

    pixels: Tensor
    """`(T + 1, N, height, width, stack)` uint8: what the network sees."""
    starts: Tensor
    """`(T + 1, N)` bool: an episode begins."""
    last_actions: Tensor
    """`(T + 1, N)` int64, `NO_ACTION` at the first."""
    last_rewards: Tensor
    """`(T + 1, N)` fp32, clipped."""
    actions: Tensor
    """`(T, N)` int64 full-set ids."""
    log_probs: Tensor
    """`(T, N)` fp32, of the actions, by the policy that played."""
    rewards: Tensor
    """`(T, N)` fp32, as the learner shall see them."""
    terminated: Tensor
    """`(T, N)` bool: nothing comes after the step."""
    truncated: Tensor
    """`(T, N)` bool: a time limit ended the episode."""
    is_transition: Tensor
    """`(T, N)` bool; false where the step only began a new episode."""


class Impala(Learner):
    """The learner of all its games together.

    Args:
        config: how it learns.
        games_of_envs, steps, protocol, device: see `Learner`; the learning rate falls over `steps`.

    Raises:
        MissingExtra: without TorchRL.

    Example:
        >>> games = ["Pong"] * 4 + ["Boxing"] * 4
        >>> learner = Impala(ImpalaLearnerConfig(num_envs=8), games, 1000)  # doctest: +SKIP
        >>> learner.act(np.zeros((8, 4, 84, 84), np.uint8)).shape  # doctest: +SKIP
        (8,)
    """

    name = "impala"
    config_class = ImpalaLearnerConfig
    card_note = (
        "The method is that of Espeholt et al. 2018, the training is not: theirs was of 57 games, "
        "200 million frames (50 million agent steps) each."
    )
    agent: ImpalaAgent

    def _setup(self) -> None:
        check_torchrl()
        config: ImpalaLearnerConfig = self.config
        network = dataclasses.replace(
            ImpalaAgent.presets[config.size],
            lstm=config.lstm,
            value_games=len(self.games) if config.rewards == "popart" else 0,
            frame_stack=self.protocol.stack,
            frame_size=self.protocol.screen_size,
        )
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.agent = ImpalaAgent(
                network, games=self.games, protocol=self.protocol, device=self.device
            )
        self.network = self.agent.model
        self.optimizer = torch.optim.RMSprop(
            self.network.parameters(),
            lr=config.learning_rate,
            alpha=config.rmsprop_decay,
            eps=config.rmsprop_epsilon,
        )
        self.random = np.random.default_rng(config.seed)
        self.bf16 = uses_bf16(config.precision, self.device)
        # What plays: the weights of some updates ago. In bf16 it is converted once an update.
        self.player = copy.deepcopy(self.network).requires_grad_(False)
        if self.bf16:
            self.player.body.bfloat16()
        self.waiting: deque[dict[str, Tensor]] = deque()  # weights that are to play, oldest first
        allowed = allowed_actions(self.games_of_envs, self.protocol)
        self.allowed = torch.from_numpy(allowed).to(self.device)
        # Of PopArt's values, which is the game's.
        numbers = [self.games.index(name) for name in self.games_of_envs]
        self.value_of_env = torch.tensor(numbers, device=self.device) * bool(network.value_games)
        rows, count = config.unroll_length, self.num_envs
        self.unroll = Unroll(
            pixels=torch.zeros(rows + 1, count, *network.pixels_shape, dtype=torch.uint8),
            starts=torch.ones(rows + 1, count, dtype=torch.bool),
            last_actions=torch.full((rows + 1, count), NO_ACTION),
            last_rewards=torch.zeros(rows + 1, count),
            actions=torch.zeros(rows, count, dtype=torch.int64),
            log_probs=torch.zeros(rows, count),
            rewards=torch.zeros(rows, count),
            terminated=torch.zeros(rows, count, dtype=torch.bool),
            truncated=torch.zeros(rows, count, dtype=torch.bool),
            is_transition=torch.ones(rows, count, dtype=torch.bool),
        )
        self.row = 0  # of the unroll, which is played next
        self.memory = self.first_memory = self.player.initial_memory(count)

    @torch.no_grad()
    def act(self, observations: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return a full-set action for each observation, drawn from the policy that plays.

        Raises:
            ValueError: for observations of another protocol.
        """
        unroll, row = self.unroll, self.row
        expected = (self.num_envs, *self.agent.observation_space.shape)
        if observations.shape != expected:
            raise InvalidArgument(
                f"Expected observations of shape {expected}, got {observations.shape}. All games "
                f"of a learner are played under its protocol: {self.protocol.sheet()}."
            )
        unroll.pixels[row] = torch.from_numpy(self.agent.config.pixels(observations))
        now = slice(row, row + 1)
        outputs = self.player(
            unroll.pixels[now].to(self.device),
            self.memory,
            unroll.starts[now].to(self.device),
            unroll.last_actions[now].to(self.device),
            unroll.last_rewards[now].to(self.device),
        )
        if row == 0:
            self.first_memory = self.memory
        self.memory = outputs.memory
        log_probs = masked_logits(outputs.logits[0], self.allowed).log_softmax(-1).cpu()
        # The largest of logits and Gumbel noise is a draw from their softmax.
        noise = torch.from_numpy(self.random.gumbel(size=log_probs.shape))
        actions = unroll.actions[row] = (log_probs + noise).argmax(-1)
        unroll.log_probs[row] = log_probs.gather(-1, actions[:, None])[:, 0]
        return actions.numpy()

    def learn(self, step: PlayedStep) -> dict[str, float] | None:
        """Keep the step; with the last of an unroll, learn the unroll."""
        unroll, row = self.unroll, self.row
        clipped = torch.from_numpy(step.rewards).float().clamp(-1, 1)
        ends = step.terminated | step.life_lost if self.config.life_loss_ends else step.terminated
        if self.config.rewards == "clipped":
            unroll.rewards[row] = clipped
        else:
            unroll.rewards[row] = torch.from_numpy(step.rewards)
        unroll.terminated[row] = torch.from_numpy(ends)
        unroll.truncated[row] = torch.from_numpy(step.truncated)
        unroll.is_transition[row] = torch.from_numpy(step.is_transition)
        unroll.starts[row + 1] = ~unroll.is_transition[row]
        unroll.last_actions[row + 1] = unroll.actions[row]
        unroll.last_rewards[row + 1] = clipped
        self.steps_played += self.num_envs
        self.row = (row + 1) % self.config.unroll_length
        if self.row:
            return None
        unroll.pixels[-1] = torch.from_numpy(self.agent.config.pixels(step.next_observations))
        figures = self.update(unroll, self.first_memory)
        for part in (unroll.starts, unroll.last_actions, unroll.last_rewards):
            part[0] = part[-1]
        return figures

    def update(self, unroll: Unroll, memory: Memory) -> dict[str, float]:
        """Take an update's gradient steps and return means of what was learned.

        Args:
            unroll: what was played.
            memory: of the environments before it.
        """
        self._set_learning_rate(self.optimizer, unroll.actions.numel())
        count = len(self.allowed) // self.config.batch_size
        parts = []
        for rows in np.array_split(self.random.permutation(len(self.allowed)), count):
            chosen = torch.from_numpy(rows)
            batch = Unroll(*(part.index_select(1, chosen).to(self.device) for part in unroll))
            chosen = chosen.to(self.device)
            parts.append(self._gradient_step(batch, Memory(*(p[chosen] for p in memory)), chosen))
        self._pass_on_weights()
        means = torch.stack([torch.stack(list(part.values())) for part in parts]).mean(0)
        return dict(zip(parts[0], means.tolist(), strict=True))

    def _gradient_step(self, batch: Unroll, memory: Memory, rows: Tensor) -> dict[str, Tensor]:
        """Learn a batch of unrolls, those of the environments `rows`."""
        config, popart = self.config, self.network.value
        outputs = self._outputs(batch, memory)
        log_probs = masked_logits(outputs.logits[:-1], self.allowed[rows]).log_softmax(-1)
        chosen = log_probs.gather(-1, batch.actions[..., None])[..., 0]
        of_game = self.value_of_env[rows]
        scale, mean = popart.scale[of_game], popart.mean[of_game]
        normalized = outputs.values.gather(-1, of_game.expand(outputs.values.shape[:2])[..., None])
        normalized = normalized[..., 0]
        trace = vtrace(
            chosen,
            batch.log_probs,
            scale * normalized + mean,
            batch.rewards,
            batch.terminated,
            batch.truncated,
            batch.is_transition,
            config.discount,
        )
        losses = policy_losses(
            log_probs,
            batch.actions,
            trace.advantages / scale,
            normalized[:-1],
            (trace.targets - mean) / scale,
            batch.is_transition,
        )
        loss = (
            losses.policy + config.value_cost * losses.value - config.entropy_cost * losses.entropy
        )
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), config.max_gradient_norm or math.inf)
        self.optimizer.step()
        known = batch.is_transition
        count = known.sum().clamp_min(1)  # a short batch may hold nothing but beginnings
        if config.rewards == "popart":
            games = of_game.expand_as(known)[known]
            popart.update(trace.targets[known], games, config.popart_rate)
        return {
            "loss": loss.detach() / count,
            "entropy": losses.entropy.detach() / count,
            "value": trace.targets[known].sum() / count,
            "ratio": (chosen.detach() - batch.log_probs)[known].exp().sum() / count,
        }

    def _outputs(self, batch: Unroll, memory: Memory) -> PolicyOutputs:
        with torch.autocast(self.device.type, torch.bfloat16, self.bf16):
            return self.network(
                batch.pixels, memory, batch.starts, batch.last_actions, batch.last_rewards
            )

    def _pass_on_weights(self) -> None:
        """Let what plays have the weights of `actor_lag` updates ago."""
        weights = {name: part.clone() for name, part in self.network.state_dict().items()}
        self.waiting.append(weights)
        if len(self.waiting) > self.config.actor_lag:
            self.player.load_state_dict(self.waiting.popleft())

    def state_dict(self) -> dict[str, Any]:
        """Return what a learner needs to resume as this one would, after an update."""
        return {
            **super().state_dict(),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "player": self.player.state_dict(),
            "waiting": list(self.waiting),
            "memory": list(self.memory),
            "next": [p[0] for p in self.unroll[1:4]],
            # As text: PyTorch's safe loader takes no integers of 128 bits.
            "random": json.dumps(self.random.bit_generator.state),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from what `state_dict` returned.

        Raises:
            ValueError: if it is of another network.
        """
        super().load_state_dict(state)
        try:
            self.network.load_state_dict(state["network"])
        except RuntimeError as error:
            raise InvalidArgument(
                f"The state is of another network; expected that of {self.agent.config}: {error}"
            ) from error
        self.optimizer.load_state_dict(state["optimizer"])
        self.player.load_state_dict(state["player"])
        self.waiting = deque(
            {name: part.to(self.device) for name, part in weights.items()}
            for weights in state["waiting"]
        )
        self.memory = Memory(*(part.to(self.device) for part in state["memory"]))
        for part, saved in zip(self.unroll[1:4], state["next"], strict=True):
            part[0] = saved
        self.random.bit_generator.state = json.loads(state["random"])
