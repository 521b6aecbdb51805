"""RLU Atari (Gulcehre et al. 2020): DQN Replay as whole episodes, prepared by TensorFlow Datasets.

`rlu_atari_checkpoints_ordered`, `rlu_atari_checkpoints` and `rlu_atari` hold the same episodes in
different orders; only the first is in the order of time. A folder
`<data set>/<Game>_run_<run>/<version>` has `dataset_info.json`, which names the shards and their
lengths, and the shards: TFRecord files of one `tf.train.Example` an episode. Its features are
`episode_return` and, a value a step, `steps/observation` (PNG, 84x84 gray), `steps/action` (index
in the game's minimal action set), `steps/reward` (clipped to [-1, 1] in every version),
`steps/is_first`, `steps/is_last`, `steps/is_terminal` and `steps/discount`.

By RLDS, the format of the steps, only the observation of the last step is valid. Here the last step
is one like the others: DQN Replay has no frame after the last action, and RLU has a step for each
of its rows. The four records of Asterix that TFDS's own tests read show it: their last frame comes
19 steps after the one in which the last life's end has been shown, and in the emulator the frame
after the last action always comes 20 steps after it. Because this is known from four records alone,
an import checks that the rewards of each episode add up to its `episode_return`.

Sources: tensorflow/datasets 4.9.10, `rl_unplugged/atari_utils.py`, `core/example_serializer.py`
and `core/naming.py`, which made the files that this was tested with; the records in
`rl_unplugged/rlu_atari*/dummy_data`; the README of google-research/rlds.
"""

from mgdt_agents.replay.importers.rlu.run import RLURun, import_rlu

__all__ = ["RLURun", "import_rlu"]
