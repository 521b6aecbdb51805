"""DQN Replay (Agarwal et al. 2020): logged replay buffers of DQN agents, as Dopamine wrote them.

The agent's replay buffer was a ring of `capacity` rows (1,000,000 in the public data), written to
files with a running suffix whenever it was nearly full. A row is the frame before an action, the
action, its reward clipped to [-1, 1], and whether it ended the episode. What has to be undone:

- A file was written when all rows but the last were. Its last row is left over from the pass over
  the ring before, which is where it belongs: passes follow one another as row `capacity` - 1 of
  the next file, rows 0 to `capacity` - 2 of the next file. In the first file it is garbage.
- Three zero rows stand before each episode.
- A pass is not in the files at all if these zeros went over the row at which it would have been
  written, or if a file is missing.
- The last file was written at the end of training, in the middle of a pass.
- Time-outs are stored as ends of the game.

Sources: google-research/batch_rl@6f7f4d5, `logged_replay_buffer.py`, and the files that it writes
with Dopamine 491e786, whose `circular_replay_buffer.py` has the ring and the zero rows.
"""

from mgdt_agents.replay.importers.dqn_replay.run import DQNReplayRun, import_dqn_replay

__all__ = ["DQNReplayRun", "import_dqn_replay"]
