"""Episodes on disk as they end, so that none is played twice: `episodes.jsonl`.

A line is an episode with what decides it: the weights, the rules of play and the versions, the game
and the seed. So a folder can be resumed after a kill, and extended by more agents, games, episodes
or protocols; what is there already is read instead of played.
"""

import base64
import dataclasses
import hashlib
import json
import secrets
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakKeyDictionary

from torch import nn

from mgdt_agents.agent import Agent
from mgdt_agents.evaluation.results import Episode
from mgdt_agents.replay.files import close, naming
from mgdt_envs.errors import InvalidArgument

FILE = "episodes.jsonl"
_NAMELESS: WeakKeyDictionary[Agent, str] = WeakKeyDictionary()
"""A name for each agent that does not say how it acts."""


@dataclass(frozen=True, slots=True)
class EpisodeTrace:
    """What an episode can be played again from, without the agent."""

    actions: bytes
    """Full-set ids, uint8, one an agent step."""
    checksum: int
    """CRC-32 of the newest frame of each observation, before its action, and then the actions."""


class EpisodeLog:
    """The file of the episodes of a folder; one is appended as it ends.

    Args:
        folder: where `episodes.jsonl` is, or will be.

    Raises:
        ValueError: if the file is damaged before its last line. A last line that a kill left
            half-written is dropped when the next is added.
    """

    def __init__(self, folder: Path) -> None:
        """Read what is there."""
        self.path = folder / FILE
        self._lines: dict[tuple[str, str, str, int], dict[str, Any]] = {}
        self._file: BinaryIO | None = None
        data = self.path.read_bytes() if self.path.exists() else b""
        self._whole = data.rfind(b"\n") + 1  # bytes
        for number, line in enumerate(data[: self._whole].splitlines(), 1):
            try:
                content = json.loads(line)
                key = (content["weights"], content["rules"], content["game"], content["seed"])
                _ = content["score"], content["steps"], content["end"]
                self._lines[key] = content
            except (KeyError, TypeError, ValueError) as error:
                raise InvalidArgument(
                    f"{self.path}, line {number}, is no episode: {error!r}. Remove the line, and "
                    "the episode is played again."
                ) from error

    def __len__(self) -> int:
        """Return how many episodes there are."""
        return len(self._lines)

    def find(
        self, agent_hash: str, rules_hash: str, wanted: Episode, *, traced: bool = False
    ) -> Episode | None:
        """Return the episode of a game and seed that was played by this agent and these rules.

        Args:
            agent_hash: `fingerprint` of the agent.
            rules_hash: what `benchmark.hash_of_rules` returns.
            wanted: whose agent, run, protocol, game and seed the episode is to have.
            traced: whether it must have a trace.
        """
        line = self._lines.get((agent_hash, rules_hash, wanted.game, wanted.seed))
        if line is None or (traced and "actions" not in line):
            return None
        fields = ("score", "steps", "end")
        return dataclasses.replace(wanted, **{name: line[name] for name in fields})

    def append(
        self, agent_hash: str, rules_hash: str, episode: Episode, trace: EpisodeTrace | None
    ) -> None:
        """Add an episode, safe against a kill once this returns.

        Raises:
            ReplayError: if it cannot be written, as on a full disk.
        """
        line = {"weights": agent_hash, "rules": rules_hash, **dataclasses.asdict(episode)}
        if trace is not None:
            actions = base64.b64encode(zlib.compress(trace.actions)).decode()
            line |= {"actions": actions, "checksum": trace.checksum}
        with naming(self.path):
            if self._file is None:
                self._file = self.path.open("ab")
                self._file.truncate(self._whole)
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()
        self._lines[agent_hash, rules_hash, episode.game, episode.seed] = line

    def trace(self, agent_hash: str, rules_hash: str, episode: Episode) -> EpisodeTrace | None:
        """Return the trace of an episode, None if there is none."""
        line = self._lines.get((agent_hash, rules_hash, episode.game, episode.seed))
        if line is None or "actions" not in line:
            return None
        try:
            actions = zlib.decompress(base64.b64decode(line["actions"], validate=True))
            return EpisodeTrace(actions, line["checksum"])
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            raise InvalidArgument(
                f"{self.path}: the actions of {episode.agent} in {episode.game}, seed "
                f"{episode.seed}, are damaged: {error!r}."
            ) from error

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            close(self._file)


def fingerprint(agent: Agent) -> str:
    """Return a checksum of what decides how an agent acts: its kind, options and weights."""
    digest = hashlib.sha256(f"{type(agent).__qualname__} {agent.kind}".encode())
    identity = agent.identity()
    if identity is None:
        identity = _NAMELESS.setdefault(agent, secrets.token_hex(16))
    digest.update(identity.encode())
    network = network_of(agent)
    if network is not None:
        for name, tensor in network.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).float().numpy().tobytes())
    return digest.hexdigest()[:16]


def network_of(agent: Agent) -> nn.Module | None:
    """Return the network of an agent; None if it has none."""
    model = getattr(agent, "model", None)
    if not isinstance(model, nn.Module):
        model = getattr(model, "policy", None)  # of a model of stable-baselines3
    return model if isinstance(model, nn.Module) else None


def checksum_of(content: Mapping[str, Any]) -> str:
    """Return a checksum of JSON types, in whatever order their fields are."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
