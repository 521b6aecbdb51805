"""Record the play of a stable-baselines3 learner as a trace."""

from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from mgdt_agents.errors import TraceDivergedError
from mgdt_agents.replay.files import check_json, naming
from mgdt_agents.replay.trace_recorder import TraceRecorder
from mgdt_envs import MultiGameAtariVectorEnv
from mgdt_envs.emulator import NOOP
from mgdt_envs.errors import InvalidArgument, OutputExists
from mgdt_envs.sb3 import MultiGameAtariVecEnv


class RecordingCallback(BaseCallback):
    """Keep every step that a learner plays on `MultiGameAtariVecEnv`, and write them as a trace.

    Any stable-baselines3 learner will do, and any wrappers around the environments of one game.
    Learning begins with a reset to seeds of the callback's. The trace is written when learning
    ends, also where a callback ended it, or by `save`.

    stable-baselines3 begins an episode in the step that ended the one before; in a trace that is a
    step of its own, in which the other environments act. To write the trace, each environment's
    actions are therefore played once more, which also checks them. The trace ends when the first
    environment, the one with the fewest episodes, has played all its actions; each other loses as
    many of its last steps as it had episodes more.

    Args:
        path: file of the trace, which must not exist.
        source: JSON types that say how the play is made.
        seed: of the first environment; the next has `seed + 1`.

    Example:
        >>> import tempfile
        >>> from stable_baselines3 import PPO
        >>> from mgdt_agents.replay import Trace
        >>> from mgdt_envs.sb3 import LearnerRewards, MultiGameAtariVecEnv
        >>> env = LearnerRewards(MultiGameAtariVecEnv(2, games="Pong"))
        >>> model = PPO("CnnPolicy", env, n_steps=4, batch_size=8, n_epochs=1, device="cpu")
        >>> path = f"{tempfile.mkdtemp()}/Pong.npz"
        >>> model.learn(8, callback=RecordingCallback(path, {"learner": "ppo"})).num_timesteps
        8
        >>> Trace.load(path).actions.shape
        (4, 2)
        >>> env.close()
    """

    def __init__(
        self, path: str | Path, source: dict[str, Any] | None = None, *, seed: int = 0
    ) -> None:
        super().__init__()
        self.path = Path(path)
        self.source = check_json(source or {}, "source")
        self.seed = seed

    def _on_training_start(self) -> None:
        envs = self.training_env.unwrapped
        if not isinstance(envs, MultiGameAtariVecEnv):
            raise InvalidArgument(
                f"RecordingCallback records play on MultiGameAtariVecEnv, got {type(envs).__name__}"
            )
        played = envs.envs
        if len(played.games) != 1 or played.protocol.jpeg:
            raise InvalidArgument(
                f"A trace holds one game without JPEG, got {', '.join(played.games)} under "
                f"{played.protocol.sheet()}"
            )
        if self.path.exists():
            raise OutputExists(f"{self.path} exists; choose another file or remove it first.")
        # Now, for what is wrong with the folder must not show after all the learning.
        with naming(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._envs = envs
        self._actions: list[np.ndarray] = []
        self._frame_numbers: list[list[int]] = []
        self._has_saved = False  # a file at the path is this training's, then
        self.training_env.seed(self.seed)
        self.model._last_obs = self.training_env.reset()  # type: ignore[assignment]
        self.model._last_episode_starts = np.ones(envs.num_envs, bool)

    def _on_step(self) -> bool:
        self._actions.append(np.array(self._envs.last_actions, np.uint8))
        self._frame_numbers.append([info["episode_frame_number"] for info in self.locals["infos"]])
        return True

    def _on_training_end(self) -> None:
        self.save()

    def save(self) -> None:
        """Play the steps so far once more and write the trace, in place of what it wrote before.

        Raises:
            TraceDivergedError: if the play is another one, as when something else than the
                learner has stepped or reset the environments.
            FileExistsError: if there is a file that this training did not write.
        """
        played = self._envs.envs
        num_envs = played.num_envs
        actions = np.array(self._actions).reshape(-1, num_envs)
        frame_numbers = np.array(self._frame_numbers).reshape(-1, num_envs)
        envs = TraceRecorder(
            MultiGameAtariVectorEnv(num_envs, played.games, played.protocol), self.source
        )
        envs.reset(seed=self.seed)
        columns = np.arange(num_envs)
        steps = np.zeros(num_envs, np.int64)  # of each environment, without its resets
        begins = np.zeros(num_envs, bool)
        while (steps < len(actions)).all():
            _, _, terminated, truncated, infos = envs.step(
                np.where(begins, NOOP, actions[steps, columns])
            )
            differs = infos["episode_frame_number"] != frame_numbers[steps, columns]
            for column in np.flatnonzero(differs & ~begins):
                raise TraceDivergedError(
                    f"Environment {column} played differently at step {steps[column]}: were the "
                    "environments used by others than the learner that was recorded? The trace "
                    "is not written."
                )
            steps += ~begins
            begins = terminated | truncated
        envs.trace().save(self.path, overwrite=self._has_saved)
        self._has_saved = True
        envs.close()
