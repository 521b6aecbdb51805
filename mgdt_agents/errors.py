"""Errors of the package. Each message says what was expected, what came, and what to do."""


class ReplayError(ValueError):
    """A trace or a replay store that cannot be read as what it claims to be."""


class TraceDivergedError(ReplayError):
    """A trace that does not regenerate the play it was recorded from."""


class AgentLoadError(ValueError):
    """A saved agent that cannot be loaded, or does not fit the environment."""
