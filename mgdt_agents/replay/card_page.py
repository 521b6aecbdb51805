"""The page of a collection's data cards, and its pictures."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mgdt_agents.errors import ReplayError
from mgdt_agents.markdown import markdown_table
from mgdt_agents.number_text import number_text
from mgdt_agents.replay import files
from mgdt_agents.replay.cards import RECENT, load_card, published_agents, published_returns
from mgdt_agents.replay.splits import ALL, BOUNDS, WINDOW, split_ranges
from mgdt_agents.replay.trace import Trace
from mgdt_envs import AtariProtocol
from mgdt_envs.errors import OutputExists, importing
from mgdt_envs.scoring import human_normalized_score, reason_without_score

MADE = "<!-- Made by mgdt-replay card; what is written here by hand is lost. -->"
COLORS = {"random": "#8C8C8C", "medium": "#E69F00", "expert": "#009E73"}
INK = "#0072B2"


def write_cards(
    folder: Path,
    cards: Mapping[str, dict[str, Any]],
    traces: Mapping[str, Trace],
    page: str,
) -> None:
    """Write cards, pictures and the page of all cards of a folder.

    Args:
        folder: gets `<name>.json` and `<name>.png` for each trace.
        cards: of the traces, by name.
        traces: what the pictures are of, by the same names.
        page: the name of the page's file.

    Raises:
        FileExistsError: if something else is in the place of a file; nothing is written then.
        ReplayError: if a card is damaged; nothing is written then either.
        MissingExtra: if matplotlib is not installed.
    """
    for name in cards:
        check_card(folder, name)
    if (folder / page).exists() and MADE not in (folder / page).read_text():
        raise OutputExists(
            f"{folder / page} exists and was not made by `mgdt-replay card`; choose another folder "
            "or move it away."
        )
    content = page_text(dict(sorted({**read_cards(folder), **cards}.items())))
    pictures = {name: draw(traces[name]) for name in cards}
    files.make_folder(folder)
    for name, card in cards.items():
        # The card is first, for it says whose the picture is.
        files.replace(folder / f"{name}.json", files.json_bytes(card, indent=1))
        files.replace(folder / f"{name}.png", pictures[name])
    files.replace(folder / page, content.encode())


def check_card(folder: Path, name: str) -> None:
    """Check that a card may be written.

    Raises:
        FileExistsError: if something else is in its place.
    """
    for path in (folder / f"{name}.json", folder / f"{name}.png"):
        try:
            is_ours = load_card(folder / f"{name}.json") is not None
        except ReplayError:
            is_ours = False
        if path.exists() and not is_ours:
            raise OutputExists(f"{path} exists and is no data card; choose another folder.")


def read_cards(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the data cards in a folder by name; other files are left alone."""
    cards = {}
    for path in sorted(folder.glob("*.json")):
        try:
            if card := load_card(path):
                cards[path.stem] = card
        except ReplayError:
            continue
    return cards


def draw(trace: Trace) -> bytes:
    """Return the learning curve of a trace as a small PNG.

    Mean and central 80 % of `WINDOW` episodes on end, over the steps of whole episodes; splits are
    shaded.

    Raises:
        MissingExtra: if matplotlib is not installed.
    """
    with importing("Cards need matplotlib", "plot"):
        from matplotlib.figure import Figure
    has_score = reason_without_score(trace.game, trace.protocol, may_be_cut=False) is None
    returns = trace.episode_return.astype(np.float64)
    values = human_normalized_score(trace.game, returns) if has_score else returns
    ends = trace.episode_lengths.cumsum() / 1e6
    figure = Figure(figsize=(4.6, 2.4), dpi=90, layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=trace.game, xlabel="million steps")
    axes.set_ylabel("human-normalized return" if has_score else "return")
    ranges = split_ranges(trace.game, trace.protocol, {}, returns)
    for name, episodes in ranges.items():
        if name != ALL:
            left = ends[episodes.start - 1] if episodes.start else 0.0
            axes.axvspan(left, ends[episodes.stop - 1], color=COLORS[name], alpha=0.15, linewidth=0)
    window = min(WINDOW, len(values))
    if window:
        windows = np.lib.stride_tricks.sliding_window_view(values, window)
        # No finer than the picture.
        windows = windows[:: max(1, len(windows) // 300)]
        middle = ends[window // 2 :: max(1, (len(values) - window + 1) // 300)][: len(windows)]
        low, high = np.quantile(windows, [0.1, 0.9], axis=1)
        axes.fill_between(middle, low, high, color=INK, alpha=0.25, linewidth=0)
        axes.plot(middle, windows.mean(axis=1), color=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def page_text(cards: Mapping[str, dict[str, Any]]) -> str:
    """Return the page of cards, as Markdown.

    Raises:
        ReplayError: naming a card of which there can be no page, for a field is missing or of
            another type.
    """
    for name, card in cards.items():
        try:
            _page_text({name: card})
        except Exception as error:  # a wrong field raises one of half a dozen kinds
            raise ReplayError(
                f"The data card {name}.json is damaged: a field is missing or of another type "
                f"({type(error).__name__}: {error}). Remove it, and write it anew by "
                "`mgdt-replay card`."
            ) from error
    return _page_text(cards)


def _page_text(cards: Mapping[str, dict[str, Any]]) -> str:
    total = sum(card["bytes"] for card in cards.values())
    steps = sum(card["steps"] for card in cards.values())
    parts = [
        f"# Data cards\n\n{MADE}",
        f"{len(cards)} traces, {steps:,} steps, {total / 1e6:.1f} MB. A trace is recorded play as "
        "seeds and actions; `mgdt-replay expand` makes a replay store of it. Returns are the "
        "games' own scores. Human-normalized, 0 is the random policy and 1 a human; a tenth is one "
        f"of the episodes, in the order in which they ended; first and last are means of {RECENT} "
        f"episodes. Pictures show the mean and the central 80 % of {WINDOW} episodes; the splits "
        "`random`, `medium` and `expert` are gray, orange and green.",
        _overview(cards),
        _tenths(cards),
        _published(cards),
        *(_section(name, card) for name, card in cards.items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _overview(cards: Mapping[str, dict[str, Any]]) -> str:
    header = ["trace", "steps", "episodes", "first", "last", "best", "human-normalized"]
    header += ["splits", "file"]
    rows = []
    for name, card in cards.items():
        returns, normalized = card["returns"], card["human_normalized"]
        rows.append(
            [
                f"[{name}](#{name.lower()})",
                f"{card['steps']:,}",
                f"{card['episodes']:,}",
                *(_number(returns[it]) for it in ("first", "last", "best")),
                _score(normalized and normalized["last"]),
                ", ".join(card["splits"]) or "none",
                f"{card['bytes'] / 1e3:,.0f} kB",
            ]
        )
    return markdown_table(header, rows)


def _tenths(cards: Mapping[str, dict[str, Any]]) -> str:
    rows = [
        [name, *map(_score, card["human_normalized"]["tenths"])]
        for name, card in cards.items()
        if card["human_normalized"]
    ]
    header = ["trace", *map(str, range(1, 11))]
    return "## Human-normalized return by tenth\n\n" + markdown_table(header, rows) if rows else ""


def _published(cards: Mapping[str, dict[str, Any]]) -> str:
    """Return a table of the last returns beside those of others after as many steps."""
    agents = published_agents()
    names = [agent["name"] for agent in agents]
    rows = []
    for name, card in cards.items():
        others = published_returns(card["game"], card["steps"])
        if others:
            values = [_number(others.get(other)) for other in names]
            rows.append(
                [name, f"{card['steps'] / 1e6:.1f}M", _number(card["returns"]["last"]), *values]
            )
    if not rows:
        return ""
    agents_of: dict[str, list[str]] = {}
    for agent in agents:
        agents_of.setdefault(f"{agent['protocol']}. Source: {agent['source']}.", []).append(
            agent["name"]
        )
    sources = "\n".join(f"- {', '.join(named)}: {text}" for text, named in agents_of.items())
    return (
        "## Beside published learners\n\nMean return of the last "
        f"{RECENT} episodes of a trace, one run, beside what others report after as many agent "
        "steps. Not played by us, and their rules differ:\n\n"
        f"{markdown_table(['trace', 'steps', 'last', *names], rows)}\n\n{sources}"
    )


def _section(name: str, card: dict[str, Any]) -> str:
    returns, normalized, source = card["returns"], card["human_normalized"], card["source"]
    least, low, median, high, most = card["lengths"] or [0] * 5
    learner = ", ".join(
        str(source[who]) for who in ("learner", "agent", "policy") if source.get(who) is not None
    )
    rows = {
        "game": f"{card['game']}; ROM of ale-py, MD5 `{card['rom_md5']}`",
        "rules": AtariProtocol.from_dict(card["protocol"]).sheet(),
        "play": f"{learner or 'unknown'}; mgdt {source.get('mgdt', 'unknown')}, ale-py "
        f"{card['ale_py']}",
        "steps": f"{card['steps']:,} of {card['environments']} environments, seeds "
        f"{card['seeds'][0]} to {card['seeds'][1]}; {card['episode_steps']:,} in "
        f"{card['episodes']:,} whole episodes",
        "returns": f"first {_number(returns['first'])}, last {_number(returns['last'])}, best "
        f"{_number(returns['best'])}",
        "by tenth": ", ".join(map(_number, returns["tenths"])),
        "human-normalized": "none"
        if normalized is None
        else f"first {_score(normalized['first'])}, last {_score(normalized['last'])}, best "
        f"{_score(normalized['best'])}",
        "episode lengths": f"{least:,.0f} to {most:,.0f} steps, quartiles {low:,.0f}, "
        f"{median:,.0f}, {high:,.0f}",
        "actions": _action_text(card),
        "rewards": _reward_text(card["rewards"]),
        "splits": _split_text(card["splits"]),
        "regenerated": _regenerated_text(card),
        "license": card["license"],
        "trace": f"checksum `{card['checksum']}`, {card['bytes']:,} bytes",
    }
    if card["note"]:
        rows["made by"] = card["note"]
    table = markdown_table(["", ""], [[key, value] for key, value in rows.items()])
    return f"## {name}\n\n![Learning curve of {name}]({name}.png)\n\n{table}"


def _action_text(card: dict[str, Any]) -> str:
    shares = card["actions"]["shares"]
    listed = ", ".join(f"{action} {share:.1%}" for action, share in shares.items())
    most = np.log2(len(shares))  # the minimal actions, and what else was played
    return f"{listed}; entropy {card['actions']['entropy_bits']:.2f} of {most:.2f} bits"


def _reward_text(rewards: dict[str, Any] | None) -> str:
    if rewards is None:
        return "not counted: that needs a store of the trace"
    return (
        f"{rewards['rewarded_share']:.2%} of steps are rewarded, {rewards['positive_share']:.2%} "
        f"above 0; from {rewards['least']:g} to {rewards['most']:g} (of {rewards['steps']:,} steps)"
    )


def _split_text(splits: dict[str, Any]) -> str:
    texts = [
        f"`{name}` {it['episodes'][1] - it['episodes'][0]:,} episodes of {it['steps']:,} steps, "
        f"mean return {_number(it['mean_return'])}"
        for name, it in splits.items()
    ]
    missing = [name for name in BOUNDS if name not in (*splits, ALL)]
    return "; ".join(texts + ([f"no {', no '.join(missing)}"] if missing else []))


def _regenerated_text(card: dict[str, Any]) -> str:
    if not card["regenerated"]:
        return "not tried"
    return "; ".join(
        f"under ale-py {it['ale_py']}, {it['steps']:,} steps ({it['compared']})"
        for it in card["regenerated"]
    )


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return number_text(value, "{:,.0f}" if abs(value) >= 1000 else "{:.1f}")


def _score(value: float | None) -> str:
    return "–" if value is None else number_text(value, "{:.2f}")
