"""What RLlib is told: how it plays the suite's games and learns our network.

It makes the environments by `gym.make_vec`, so the suite needs no adapter.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from ray.rllib.algorithms import AlgorithmConfig
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.core.rl_module import RLModuleSpec

from mgdt_agents.actor_critic import ImpalaAgent
from mgdt_agents.config_checks import check_choices, check_interval
from mgdt_agents.online.rllib_module import AllowedActions, LearnerView, PolicyModule, ToPixels
from mgdt_envs import AtariProtocol
from mgdt_envs.emulator import MAX_SEED

ALGORITHMS: dict[str, type[IMPALAConfig]] = {"impala": IMPALAConfig, "appo": APPOConfig}
ENV_ID = "mgdt_envs:MultiGameAtari-v0"
RETURNS = "game_returns"
"""Name of RLlib's metric that has the returns of the episodes that ended, by game."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RLlibConfig:
    """How RLlib plays and learns, with Adam."""

    algorithm: Literal["impala", "appo"] = "impala"
    """IMPALA, or APPO: a clipped objective, a second network, each batch learned twice (Luo et al.
    2020)."""
    env_runners: int = 2
    """Processes that play, with a CPU each; those that die are replaced."""
    envs_per_runner: int = 16
    """Environments that each of them plays together, shared by all games; at least one a game."""
    learners: int = 0
    """Processes that learn, with a CPU or GPU each; 0 learns in the command's own."""
    unroll_length: int = 20
    """Steps of each environment that are learned together."""
    batch_size: int = 16
    """Unrolls of a gradient step, rounded up to what an env runner sends."""
    life_loss_ends: bool = True
    """A lost life is an end to the learner."""
    discount: float = 0.99
    """Of rewards a step later; rewards are clipped to [-1, 1]."""
    value_cost: float = 0.5
    """Weight of the value's loss."""
    entropy_cost: float = 0.01
    """Weight of the policy's entropy."""
    learning_rate: float = 6e-4
    """Of Adam, at first; it falls to 0 over all steps."""
    max_gradient_norm: float = 40.0
    """Larger gradients are scaled to this norm; 0 leaves them as they are."""
    size: str = "small"
    """Network: "small", or "deep" of Espeholt et al. 2018."""
    seed: int = 0
    """Of the network, the actions and the environments. What is learned depends on time, too."""

    def __post_init__(self) -> None:
        costs = ("value_cost", "entropy_cost", "learning_rate", "max_gradient_norm")
        seeds = MAX_SEED - self.env_runners * self.envs_per_runner
        check_choices(self)
        check_interval(
            self, "[1, inf)", "env_runners", "envs_per_runner", "unroll_length", "batch_size"
        )
        check_interval(self, "[0, inf)", "learners", *costs)
        check_interval(self, "[0, 1]", "discount")
        check_interval(self, f"[0, {seeds}]", "seed")
        ImpalaAgent.preset(self.size)


def algorithm_config(
    config: RLlibConfig,
    agent: ImpalaAgent,
    steps: int,
    played: int = 0,
    gpus: int = 0,
    num_threads: int = 0,
) -> AlgorithmConfig:
    """Return RLlib's configuration of a training of `steps`, of which some are played."""
    left = steps - played
    return (
        ALGORITHMS[config.algorithm]()
        .environment(
            ENV_ID,
            env_config={
                "games": list(agent.games),
                "protocol": agent.protocol.to_dict(),
                "num_threads": num_threads or 1,
            },
        )
        .env_runners(
            num_env_runners=config.env_runners,
            num_envs_per_env_runner=config.envs_per_runner,
            rollout_fragment_length=config.unroll_length,
            gym_env_vectorize_mode="vector_entry_point",
            env_to_module_connector=partial(_env_to_module, agent.config, agent.protocol),
        )
        .learners(
            num_learners=config.learners,
            num_gpus_per_learner=gpus,
            learner_connector=partial(_learner_view, agent.protocol, config.life_loss_ends),
        )
        .rl_module(
            rl_module_spec=RLModuleSpec(
                module_class=PolicyModule,
                model_config={"network": dataclasses.asdict(agent.config)},
            )
        )
        .training(
            train_batch_size_per_learner=config.batch_size * config.unroll_length,
            gamma=config.discount,
            lr=[[0, config.learning_rate * left / steps], [left, 0.0]],
            vf_loss_coeff=config.value_cost,
            entropy_coeff=config.entropy_cost,
            grad_clip=config.max_gradient_norm or None,
            # RLlib's own, 0, keeps a core busy with asking.
            timeout_s_sampler_manager=0.1,
        )
        .callbacks(
            on_environment_created=partial(_seed_runner, config.seed),
            on_episode_end=_log_return,
        )
        .reporting(min_time_s_per_iteration=1)
        .debugging(seed=config.seed)
    )


def _env_to_module(network: Any, protocol: AtariProtocol, *_: Any) -> list[Any]:
    return [ToPixels(network=network), AllowedActions(protocol=protocol)]


def _learner_view(protocol: AtariProtocol, life_loss_ends: bool, *_: Any) -> LearnerView:
    return LearnerView(protocol=protocol, life_loss_ends=life_loss_ends)


def _seed_runner(seed: int, *, env_runner: Any, env: Any, **_: Any) -> None:
    """Give each environment of all runners a seed of its own: RLlib's runners are 1 apart."""
    env_runner._seed = seed + (env_runner.worker_index - 1) * env.num_envs


def _log_return(*, episode: Any, metrics_logger: Any, **_: Any) -> None:
    """Log the return of an episode that ended."""
    info = episode.get_infos(-1)
    key = (RETURNS, info["game"])
    metrics_logger.log_value(key, float(info["episode"]["r"]), reduce="item_series")
