"""Figures of a training for a service that gathers runs: Weights & Biases (extra `wandb`)."""

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mgdt_agents.training.run_folder import DESCRIPTION
from mgdt_envs.errors import InvalidArgument, importing

RUN_ID = "wandb_run_id"
"""File of a run's folder: its name at the service, under which a resumed run goes on."""


class WandbTracker:
    """Sends the lines of a training's log to Weights & Biases.

    Account, project (else "mgdt") and whether there is a network are wandb's own settings: `wandb
    login`, `WANDB_PROJECT`, `WANDB_MODE=offline`.

    It is a context manager, whose end marks the run as finished or failed.

    Args:
        output: the run's folder, whose name is the run's, and which gets wandb's files.

    Raises:
        MissingExtra: if there is no wandb.
        ValueError: if it has no account to send to, and no terminal to ask for one.
    """

    def __init__(self, output: Path) -> None:
        """Find wandb and the account."""
        with importing("--track wandb needs Weights & Biases", "wandb"):
            import wandb
        self._wandb, self._output = wandb, output
        self._run: Any = None
        # Without a network, wandb warns that it cannot log in.
        if self._wandb.setup().settings.mode not in ("offline", "disabled"):
            with self._explained():
                self._wandb.login()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self._wandb.errors.Error as error:
            raise InvalidArgument(
                f"Weights & Biases cannot be used: {error} Log in (`wandb login`), "
                "set WANDB_MODE=offline, or leave --track wandb out."
            ) from error

    def begin(self) -> None:
        """Begin a run, or go on with it; `training.json` is there."""
        name = self._output / RUN_ID
        if not name.exists():
            name.write_text(secrets.token_hex(4))
        with self._explained():
            self._run = self._wandb.init(
                project=self._wandb.setup().settings.project or "mgdt",
                name=self._output.name,
                id=name.read_text(),
                resume="allow",
                dir=self._output,
                config=json.loads((self._output / DESCRIPTION).read_text()),
            )

    def __enter__(self) -> "WandbTracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Send what is left."""
        if self._run is not None:
            self._run.finish(0 if kind is None else 1)

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Send a line, which has a "step", of a run that has begun."""
        self._run.log(dict(line), step=line["step"])
