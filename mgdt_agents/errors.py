"""Errors of agents and replay, beside those of `mgdt_envs.errors`."""

from mgdt_envs.errors import InvalidArgument, MGDTError


class ReplayError(InvalidArgument):
    """A trace, a store or another file that cannot be read as what it claims to be, or written."""


class TraceDivergedError(ReplayError):
    """A trace that does not regenerate the play it was recorded from."""


class AgentLoadError(InvalidArgument):
    """A saved agent that cannot be loaded, or does not fit the environment."""


class TrainingError(MGDTError, RuntimeError):
    """A training that cannot go on; its last checkpoint is whole."""
