"""Agents and collections of traces on the Hugging Face hub.

It needs the extra `hub`, which is imported only when used.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch

from mgdt_agents.agent import NetworkAgent
from mgdt_agents.errors import AgentLoadError, ReplayError
from mgdt_agents.evaluation.report import (
    counted,
    intervals_over,
    markdown_of_agent,
    protocol_sheet,
)
from mgdt_agents.evaluation.results import Results
from mgdt_agents.replay import ReplayStore, trace_collection
from mgdt_agents.replay.files import replace
from mgdt_agents.replay.trace_collection import INDEX, TraceCollection, read_index
from mgdt_envs.errors import InvalidArgument, MGDTError, OutputExists, importing

FILES = ["config.json", "model.safetensors", "card.md"]
"""What `save` writes; nothing else is downloaded."""

NEED = "The hub needs huggingface_hub"

AgentT = TypeVar("AgentT", bound=NetworkAgent)


def from_pretrained(
    agent_class: type[AgentT],
    repo_id: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    device: str | torch.device = "auto",
    **options: Any,
) -> AgentT:
    """Return the agent in a repository of the hub, or in a folder.

    Args:
        agent_class: what it is.
        repo_id: such as "user/name", or the folder that `save` or `save_pretrained` wrote.
        revision: branch, tag or commit of the repository; None is its main branch.
        token: of an account that may read it; None is that of `hf auth login`, if any.
        cache_dir: where downloads are kept; None is the hub's usual folder.
        force_download: download again what is kept.
        local_files_only: take what is kept, without a network.
        device: where to compute; "auto" takes a GPU if there is one.
        options: keyword arguments of the agent in place of the saved ones, such as `rule`.

    Raises:
        AgentLoadError: if there is no agent of this class, or it cannot be had.
    """
    path = Path(repo_id)
    if not path.is_dir():
        path = download(
            str(repo_id),
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
        )
    return agent_class.load(path, device=device, **options)


def save_pretrained(
    agent: NetworkAgent,
    path: str | Path,
    *,
    card: str | None = None,
    results: str | Path | None = None,
    license: str | None = None,
) -> None:
    """Write the folder `path` as `push_to_hub` uploads it; its `README.md` is the model card.

    Args:
        agent: what to save.
        path: a folder; an agent that it holds is replaced, a `README.md` is not. A warning says if
            that is another one than would be written.
        card: text of `card.md`; None leaves an existing card, or writes a minimal one.
        results: `results.json` of `mgdt-bench` with this agent alone; None gives no scores.
        license: of the weights, such as "apache-2.0"; None says nothing.

    Raises:
        ValueError: if `results` are not of one agent; nothing is written then.
        ReplayError: naming a file that cannot be written; the agent that was there stays.
    """
    folder = Path(path)
    scores = None if results is None else _read_results(Path(results))
    metadata = _metadata(agent, scores, license)
    agent.save(folder, card)
    text = f"---\n{metadata}\n---\n\n{_text((folder / 'card.md').read_text(), agent, scores)}"
    readme = folder / "README.md"
    if not readme.exists():
        replace(readme, text.encode())
    elif readme.read_bytes() != text.encode():
        warnings.warn(
            f"{readme} stays as it is, and is not the model card of what is saved: remove it, and "
            "save again, for that.",
            stacklevel=3,  # of who called the agent's method
        )


def push_to_hub(
    agent: NetworkAgent,
    repo_id: str,
    *,
    card: str | None = None,
    results: str | Path | None = None,
    license: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    branch: str | None = None,
    **options: Any,
) -> str:
    """Upload the agent to a repository of the hub, and return the address of the commit.

    Args:
        agent: what to upload.
        repo_id: such as "user/name"; it is made if there is none.
        card: text of `card.md`; None writes a minimal one.
        results: `results.json` of `mgdt-bench` with this agent alone; None gives no scores.
        license: of the weights, such as "apache-2.0"; None says nothing.
        private: of a new repository; None is what its owner has set.
        token: of an account that may write; None is that of `hf auth login`.
        branch: where to commit; None is the main branch.
        options: of `HfApi.upload_folder`, such as create_pr and commit_message.

    Raises:
        ValueError: if `results` are not of one agent, and nothing is uploaded then; if the hub
            refuses or cannot be reached.
    """
    with importing(NEED, "hub"):
        from huggingface_hub import HfApi
    api = HfApi(token=token)
    with TemporaryDirectory(prefix="mgdt-") as folder:
        save_pretrained(agent, folder, card=card, results=results, license=license)
        with _naming(f"Cannot upload to {repo_id!r} on the hub", InvalidArgument):
            repository = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            address = api.upload_folder(
                repo_id=repository, folder_path=folder, revision=branch, **options
            )
    return address


def download(repo_id: str, **options: Any) -> Path:
    """Return the folder with the agent of a repository of the hub.

    Args:
        repo_id: such as "user/name".
        options: of `huggingface_hub.snapshot_download`.

    Raises:
        AgentLoadError: if it cannot be had.
    """
    return _download(repo_id, FILES, AgentLoadError, **options)


@contextmanager
def _naming(what: str, kind: type[MGDTError]) -> Iterator[None]:
    """Turn what the hub's library raises into an error of ours that says `what` failed."""
    try:
        yield
    except MGDTError:
        raise
    except Exception as error:
        # The transport's errors have no other common class.
        is_theirs = type(error).__module__.startswith("httpx")
        if is_theirs or isinstance(error, OSError | ValueError):
            raise kind(f"{what}: {error}") from error
        raise


def _download(repo_id: str, names: Sequence[str], error: type[MGDTError], **options: Any) -> Path:
    """Return the folder with files of a repository of the hub; `error` says that it cannot be."""
    with importing(NEED, "hub"):
        from huggingface_hub import snapshot_download
    with _naming(f"Cannot download {repo_id!r} from the hub", error):
        folder = snapshot_download(repo_id, allow_patterns=list(names), **options)
    return Path(folder)


def download_collection(repo_id: str, **options: Any) -> TraceCollection:
    """Return the collection of traces in a data set of the hub.

    Its index is downloaded now, traces when they are asked for.

    Args:
        repo_id: such as "user/name".
        options: of `huggingface_hub.snapshot_download`, such as revision and token.

    Raises:
        ReplayError: if it cannot be had, or is no collection.
    """

    def fetch(names: Sequence[str]) -> Path:
        return _download(repo_id, names, ReplayError, repo_type="dataset", **options)

    return TraceCollection(f"hf://{repo_id}", read_index(fetch([INDEX])), fetch)


def push_collection(
    repo_id: str,
    traces: Mapping[str, Path],
    *,
    stores: Sequence[ReplayStore] = (),
    cards: Path | None = None,
    token: str | None = None,
    private: bool = False,
) -> list[str]:
    """Publish traces with their cards in a data set of the hub, in one commit.

    Args:
        repo_id: such as "user/name"; it is made if there is none.
        traces: files by the names that they get.
        stores: of these traces, for their cards.
        cards: folder with earlier cards of these traces.
        token: of an account that may write; None is that of `hf auth login`.
        private: of a new data set.

    Returns:
        The names of the traces that were not there.

    Raises:
        FileExistsError: if the data set holds something else, or another trace of a name; nothing
            is uploaded then.
        ReplayError: if a trace cannot be read, or the hub cannot be reached.
    """
    with importing(NEED, "hub"):
        from huggingface_hub import HfApi, snapshot_download
    api = HfApi(token=token)
    with _naming(f"Cannot publish to {repo_id!r} on the hub", ReplayError):
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        there = api.list_repo_files(repo_id, repo_type="dataset")
        if INDEX not in there and (others := set(there) - {".gitattributes"}):
            raise OutputExists(
                f"hf://{repo_id} holds {', '.join(sorted(others))} and no collection; choose "
                "another data set."
            )
        with TemporaryDirectory(prefix="mgdt-") as temporary:
            folder = Path(temporary) / "collection"
            if INDEX in there:  # with the cards of the other traces, for the page
                patterns = ["*.json", "*.png", "README.md"]
                snapshot_download(
                    repo_id,
                    repo_type="dataset",
                    allow_patterns=patterns,
                    local_dir=folder,
                    token=token,
                )
            added = trace_collection.publish(
                folder, traces, stores=stores, cards=cards, address=f"hf://{repo_id}"
            )
            api.upload_folder(
                repo_id=repo_id,
                repo_type="dataset",
                folder_path=folder,
                allow_patterns=["*.npz", "*.json", "*.png", "README.md"],
                commit_message=f"Traces: {', '.join(added) or 'cards'}",
            )
    return added


def _metadata(agent: NetworkAgent, results: Results | None, license: str | None) -> str:
    """Return what the hub's programs read in front of a model card, as YAML."""
    with importing(NEED, "hub"):
        from huggingface_hub import ModelCardData
    data = ModelCardData(
        library_name="mgdt",
        license=license,
        pipeline_tag="reinforcement-learning",
        tags=["atari", "deep-reinforcement-learning", "offline-reinforcement-learning"],
        model_name=agent.kind,
        eval_results=_evaluations(results),
    )
    return data.to_yaml()


def _read_results(path: Path) -> Results:
    """Return the results in the file `path`, which must be of one agent."""
    results = Results.load(path)
    if len(results.agents) != 1:
        raise InvalidArgument(
            f"Expected the results of one agent in {path}, got {len(results.agents)}: "
            f"{list(results.agents)}. `mgdt-bench --agents` with the agent's folder alone makes "
            "them."
        )
    return results


def _evaluations(results: Results | None) -> list[Any] | None:
    """Return the scores as the hub's metadata has them, mean and standard deviation."""
    from huggingface_hub import EvalResult

    if results is None:
        return None
    (agent,) = results.agents

    def under(protocol: str) -> str:
        return f", {protocol}" if len(results.protocols) > 1 else ""

    evaluations = [
        EvalResult(
            task_type="reinforcement-learning",
            dataset_type=f"MultiGameAtari/{game}-v0",
            dataset_name=f"{game}{under(protocol)}",
            dataset_config=protocol,  # by it and the type the hub tells entries apart
            metric_type="mean_reward",
            metric_value=(
                f"{results.summaries[agent, protocol, game].mean:.2f} +/- "
                f"{results.scores(agent, game, protocol).std():.2f}"
            ),
        )
        for protocol in results.protocols
        for game in results.games
    ]
    for protocol in results.protocols:
        main = results.headline()
        if figure := results.aggregates[agent, protocol].get(main):
            evaluations.append(
                EvalResult(
                    task_type="reinforcement-learning",
                    dataset_type="MultiGameAtari-v0",
                    dataset_name=f"{counted(figure.games, 'game')}{under(protocol)}",
                    dataset_config=protocol,
                    metric_type=f"{main}_human_normalized_score",
                    metric_value=round(figure.value, 4),
                )
            )
    return evaluations


def _text(card: str, agent: NetworkAgent, results: Results | None) -> str:
    """Return the card, the protocol, and the scores if there are any."""
    parts = [
        card.rstrip(),
        "## Protocol",
        f"Made for: {agent.protocol.sheet()}.",
        '`mgdt_agents.load_agent("hf://...")`, with the name of this repository, loads the agent.',
    ]
    if results is not None:
        (name,) = results.agents
        parts += [
            "## Benchmark",
            f"Mean scores of {counted(len(results.seeds), 'episode')} a game, and 95 % intervals "
            f"over {intervals_over(results)}.",
            *(
                f"### {rules}\n\n" * (len(results.protocols) > 1)
                + markdown_of_agent(results, name, protocol=rules)
                for rules in results.protocols
            ),
            f"{protocol_sheet(results)}.",
        ]
    return "\n\n".join(parts) + "\n"
