"""Minari data sets of Atari play, whether recorded on ale-py's environments or on the suite's.

What is undone:

- Observations are the frames that the recording kept: RGB or gray, as the console shows them or
  84x84, one or a stack. The newest frame becomes gray, by the luminance that ale-py uses, and is
  resized by area. That is what `AtariProtocol` does to the last frame of a step.
- Actions, indices in the game's minimal set where the environment had that, become full-set ids.
- The observation after an episode's last action is dropped: a store has no place for it.

The rules come from the environment's specification in the data set. Observations that Minari kept
as JPEG stay marked by it, which the store's source says.
"""

from mgdt_agents.replay.importers.minari.recording import MinariRecording, import_minari

__all__ = ["MinariRecording", "import_minari"]
