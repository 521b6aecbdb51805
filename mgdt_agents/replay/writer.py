"""Writing stores: whole, or recognized as not whole and resumable.

The store that will be at `<path>` is written in the folder `<path>.partial`:

- the frames in a log, see `mgdt_agents.replay.frame_log`;
- the columns as in the store, their headers blank;
- `meta.json`: the state at the last flush. What the other files hold beyond it does not count, and
  is cut off when the writing is resumed.

At the end the log becomes `frames.b2nd`, the headers are filled in, `meta.json` is replaced by the
store's, and the folder gets its name; a shorter store that has it is `<path>.replaced` for that
moment. `<path>.lock` keeps a second writer away meanwhile. Whatever of this a killed writer leaves
beside the store, the next one puts right.
"""

import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import files
from mgdt_agents.replay.frame_log import FrameLog, remove_log
from mgdt_agents.replay.store import (
    COLUMNS,
    FORMAT,
    HEADER_BYTES,
    OPTIONAL_FIELDS,
    PARTIAL,
    REPLACED,
    STEP_COLUMNS,
    VERSION,
    ReplayStore,
    frame_shape,
    meta_checksum,
    partial_folder,
    read_meta,
)
from mgdt_envs import AtariProtocol
from mgdt_envs.errors import OutputExists


class ReplayWriter:
    """Write a store, episode by episode; a context manager.

    The store appears under its name when the `with` block ends. If the block fails, or the process
    is killed, what the last `flush` kept stays in `<path>.partial`, for a writer with `resume` to
    go on from; without a flush nothing is left.

    Args:
        path: the folder to make.
        game: name of the game.
        protocol: the rules the play was recorded under.
        source: JSON types that say where the play comes from.
        further: optional fields of `meta.json`: `OPTIONAL_FIELDS` of `mgdt_agents.replay.store`.
        resume: go on where a writing of this store was cut off, or append to a whole store. That
            one stays as it is until the longer one takes its place.

    Attributes:
        num_steps: steps written.
        num_episodes: episodes written.
        progress: what was given to the last flush, before a resumption too.

    Raises:
        FileExistsError: if `path` exists, or the rest of a writing to it, and `resume` is not set.
        ReplayError: if another process writes to `path`, or what is to be resumed is of another
            game or protocol, or is damaged.
    """

    def __init__(
        self,
        path: str | Path,
        game: str,
        protocol: AtariProtocol,
        source: dict[str, Any],
        *,
        further: dict[str, Any] | None = None,
        resume: bool = False,
    ) -> None:
        self.path = files.real(Path(path))  # which gets a new folder; a link to it stays
        self.partial = partial_folder(self.path)
        self.game, self.protocol = game, protocol
        self.source = files.check_json(source, "source")
        self.further = files.check_json(further or {}, "further")
        self.frame_shape = frame_shape(self.further, protocol)
        self.num_steps = self.num_episodes = 0
        self.progress: dict[str, Any] | None = None
        self._columns: dict[str, BinaryIO] = {}
        self._frames: FrameLog
        self._keep = True  # the partial folder, when writing fails
        self._closing = ExitStack()
        self._closing.enter_context(files.exclusive(self.path))
        self._closing.callback(self._discard)
        try:
            _settle(self.path)
            if self.path.exists() and not resume:
                raise OutputExists(f"{self.path} exists; choose another folder or remove it first.")
            self._begin(resume)
        except BaseException:
            self._closing.close()
            raise

    def __enter__(self) -> "ReplayWriter":
        return self

    def add_episode(
        self, frames: np.ndarray, actions: np.ndarray, rewards: np.ndarray, *, truncated: bool
    ) -> None:
        """Append one whole episode of T steps.

        Args:
            frames: `(T, *frame_shape)` uint8, the frame before each action.
            actions: `(T,)` full-set ids.
            rewards: `(T,)`, what each action brought.
            truncated: whether a time limit ended the episode; otherwise the game did.

        Raises:
            ReplayError: if the arrays do not fit one another, or a file cannot be written.
        """
        steps = len(actions)
        expected = (steps, *self.frame_shape)
        if not steps or frames.shape != expected or len(rewards) != steps:
            raise ReplayError(
                f"Expected frames of shape {expected} and {steps} rewards for {steps} actions, "
                f"got {frames.shape} and {len(rewards)}."
            )
        if (shapes := [np.shape(actions), np.shape(rewards)]) != [(steps,)] * 2:
            raise ReplayError(
                f"Expected actions and rewards of shape ({steps},), got {shapes[0]} and "
                f"{shapes[1]}."
            )
        with np.errstate(over="ignore"):  # what is too large is infinite then
            rewards = np.asarray(rewards).astype(COLUMNS["rewards"])
        if not np.isfinite(rewards).all():
            raise ReplayError(f"Expected finite rewards for {self.path}, got NaN or infinity.")
        if (kind := np.asarray(actions).dtype).kind not in "iu":
            raise ReplayError(f"Expected whole numbers as actions, got {kind}.")
        if frames.dtype != np.uint8 or np.max(actions) > 17 or np.min(actions) < 0:
            raise ReplayError(
                f"Expected uint8 frames and actions in 0..17, got {frames.dtype} "
                f"and {np.min(actions)}..{np.max(actions)}."
            )
        last = np.arange(steps) == steps - 1
        columns = {
            "actions": actions,
            "rewards": rewards,
            "terminated": last & (not truncated),
            "truncated": last & truncated,
            "episode_starts": [self.num_steps],
        }
        for name, column in columns.items():
            self._append(name, np.ascontiguousarray(column, COLUMNS[name]))
        self._frames.append(frames)
        self.num_steps += steps
        self.num_episodes += 1

    def flush(self, progress: dict[str, Any] | None = None) -> None:
        """Make all episodes so far safe: whatever happens now, a writer can resume from here.

        Args:
            progress: JSON types that tell the caller how to go on, such as a place in its source.
                It is kept in one step with the episodes, and found in `progress` after a
                resumption. None leaves what was given before.

        Raises:
            ReplayError: if a file cannot be written.
        """
        if progress is not None:
            self.progress = files.check_json(progress, "progress")
        num_bytes = self._frames.flush()
        for name, file in self._columns.items():
            files.sync(file, self._column_path(name))
        self._replace_meta({"unfinished": {"frames_log_bytes": num_bytes}})
        self._keep = True
        self._frames.remove_older_rests()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Make the store whole, or keep no more than the last flush if the block failed."""
        try:
            if kind is None:
                self._finish()
        finally:
            self._closing.close()

    def _begin(self, resume: bool) -> None:
        meta = read_meta(self.partial)
        if meta and not resume:
            raise OutputExists(
                f"{self.partial} holds {meta['episodes']:,} episodes of a writing that was cut "
                "off; resume it, choose another folder, or remove it first."
            )
        if meta:
            self._resume(meta)
            return
        _remove(self.partial)
        self.partial.mkdir()
        self._keep = False
        for name in COLUMNS:
            files.replace(self._column_path(name), bytes(HEADER_BYTES))
        self._open()
        if self.path.exists():
            self._copy(ReplayStore(self.path))

    def _check_same(self, meta: dict[str, Any]) -> None:
        """Raise `ReplayError` unless what is there is of the same kind as what is to be written."""
        clipped = bool((meta.get("source") or {}).get("rewards_clipped"))
        for what, found, expected in (
            ("game", meta["game"], self.game),
            ("protocol", meta["protocol"], self.protocol.to_dict()),
            ("frame shape", frame_shape(meta, self.protocol), self.frame_shape),
            ("obs_type", meta.get("obs_type"), self.further.get("obs_type")),
            ("rewards clipped", clipped, bool(self.source.get("rewards_clipped"))),
        ):
            if found != expected:
                raise ReplayError(
                    f"Expected {what} {expected} to go on with at {self.path}, found {found}."
                )

    def _resume(self, meta: dict[str, Any]) -> None:
        """Open the files as the last flush left them."""
        self._check_same(meta)
        self.progress = meta.get("progress")
        self.num_steps, self.num_episodes = meta["steps"], meta["episodes"]
        self._open(meta["unfinished"]["frames_log_bytes"])

    def _open(self, frames_log_bytes: int = 0) -> None:
        self._frames = FrameLog(
            self.partial,
            self.frame_shape,
            num_frames=self.num_steps,
            num_bytes=frames_log_bytes,
        )
        self._closing.callback(self._frames.close)
        for name, dtype in COLUMNS.items():
            size = HEADER_BYTES + self._rows(name) * np.dtype(dtype).itemsize
            file = files.open_after(self._column_path(name), size)
            self._closing.callback(files.close, file)
            self._columns[name] = file

    def _copy(self, store: ReplayStore) -> None:
        """Begin with what a whole store holds."""
        self._check_same(store.meta)
        self.progress = store.meta.get("progress")
        self.num_steps, self.num_episodes = len(store), len(store.episode_starts)
        for name in COLUMNS:
            self._append(name, getattr(store, name))
        self._frames.append_array(store.frames)

    def _column_path(self, name: str) -> Path:
        return self.partial / f"{name}.npy"

    def _rows(self, name: str) -> int:
        return self.num_steps if name in STEP_COLUMNS else self.num_episodes

    def _append(self, name: str, column: np.ndarray) -> None:
        with files.naming(self._column_path(name)):
            self._columns[name].write(column.data)

    def _replace_meta(self, further: dict[str, Any]) -> None:
        meta: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "game": self.game,
            "protocol": self.protocol.to_dict(),
            "source": self.source,
            "steps": self.num_steps,
            "episodes": self.num_episodes,
            **({} if self.progress is None else {"progress": self.progress}),
            **self.further,
            **further,
        }
        if "checksums" in meta:
            meta["checksums"]["meta.json"] = meta_checksum(meta)
        files.replace(self.partial / "meta.json", files.json_bytes(meta))

    def _finish(self) -> None:
        """Turn the partial folder into the store."""
        if not self.num_steps:
            self._keep = False
            raise ReplayError(f"There are no whole episodes for a store at {self.path}.")
        for name, dtype in COLUMNS.items():
            header = {
                "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
                "fortran_order": False,
                "shape": (self._rows(name),),
            }
            file, path = self._columns[name], self._column_path(name)
            with files.naming(path):
                file.seek(0)
                np.lib.format.write_array_header_1_0(file, header)
                assert file.tell() == HEADER_BYTES
            files.sync(file, path)
        self._frames.finish(self.partial / "frames.b2nd")
        names = ["frames.b2nd", *(f"{name}.npy" for name in COLUMNS)]
        checksums = {name: files.file_checksum(self.partial / name) for name in names}
        self._replace_meta({"checksums": checksums})
        _publish(self.path)

    def _discard(self) -> None:
        """Remove the partial folder, unless a flush made it worth keeping."""
        if not self._keep:
            shutil.rmtree(self.partial, ignore_errors=True)


def settle(path: Path) -> None:
    """Finish what a killed writer left to do beside or at `path`, where no play is missing.

    Raises:
        ReplayError: if another process writes to `path`.
    """
    path = files.real(path)
    if any(files.beside(path, it).exists() for it in (PARTIAL, REPLACED, files.LOCK)):
        with files.exclusive(path):
            _settle(path)


def _settle(path: Path) -> None:
    partial, replaced = partial_folder(path), files.beside(path, REPLACED)
    meta = read_meta(partial)
    if meta and "unfinished" not in meta:  # killed before the folder got its name
        _publish(path)
    elif path.exists():  # killed while the shorter store was removed
        _remove(replaced)


def _publish(path: Path) -> None:
    """Give a whole partial store its name; one that has the name, shorter, makes room."""
    partial, replaced = partial_folder(path), files.beside(path, REPLACED)
    remove_log(partial)
    if path.exists():
        _remove(replaced)
        path.rename(replaced)
    partial.rename(path)
    _remove(replaced)


def _remove(folder: Path) -> None:
    """Remove a folder, if it is there and holds a store's files alone.

    Raises:
        FileExistsError: if something else is in it.
    """
    known = {"meta.json", "frames.log", "frames.b2nd"}
    known |= {f"{name}.npy" for name in COLUMNS}
    if not folder.exists():
        return
    for path in folder.iterdir() if folder.is_dir() else [folder]:
        name = path.name.removesuffix(".new")
        if name not in known and not re.fullmatch(r"rest-\d+\.b2", name):
            raise OutputExists(
                f"{path} stands where a store is to be written and is no part of one; move it away."
            )
    shutil.rmtree(folder)


def trim(path: str | Path) -> None:
    """Make a store of the whole episodes that a cut-off writing to `path` kept.

    Raises:
        ReplayError: if there is no such writing, or it is still going on.
    """
    meta = read_meta(partial_folder(Path(path)))
    if meta is None:
        raise ReplayError(f"Expected {partial_folder(Path(path))}, the rest of a cut-off writing.")
    protocol = AtariProtocol.from_dict(meta["protocol"])
    further = {name: meta[name] for name in OPTIONAL_FIELDS if name in meta}
    with ReplayWriter(path, meta["game"], protocol, meta["source"], further=further, resume=True):
        pass
