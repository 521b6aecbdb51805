"""The Python of the documentation runs as it stands.

The blocks of a page run one after the other, as a reader would type them, in a folder that has
what they speak of. One that cannot be run has a comment before it that says why:
`<!-- not run: needs the network -->`.
"""

import importlib
import re
import shutil
from pathlib import Path

import pytest

from mgdt_agents import load_agent, make_agent
from mgdt_agents.evaluation.benchmark import versions
from mgdt_agents.evaluation.results import AgentInfo, Episode, Results
from mgdt_envs import AtariProtocol

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:<!-- (not run: [^>]+) -->\n)?^```python\n(.*?)^```", re.S | re.M)


def blocks_of(page):
    """Return the blocks of a page that can be run, with blank lines before each, for its line."""
    text = page.read_text()
    return [
        "\n" * text.count("\n", 0, match.start(2)) + match[2]
        for match in BLOCK.finditer(text)
        if match[1] is None
    ]


def write_results(folder):
    """Write results of three training runs, as if each was an agent."""
    agents, games, seeds = ("run-0", "run-1", "run-2"), ("Breakout", "Pong"), range(2)
    results = Results(
        agents={agent: AgentInfo(kind="dt") for agent in agents},
        games=games,
        protocols={"default": AtariProtocol()},
        seeds=seeds,
        deterministic=False,
        versions=versions(),
        episodes=tuple(
            Episode(agent=agent, game=game, seed=seed, score=number + seed, steps=9)
            for number, agent in enumerate(agents)
            for game in games
            for seed in seeds
        ),
    )
    folder.mkdir(parents=True)
    results.save(folder / "results.json")


@pytest.fixture
def folder(tmp_path, breakout_store, readable_store, dqn_zip, monkeypatch):
    """A folder with stores, agents and results by the names that the pages give them."""
    shutil.copytree(breakout_store, tmp_path / "replay" / "Breakout")
    shutil.copytree(readable_store, tmp_path / "replay" / "Pong")
    shutil.copy(dqn_zip, tmp_path / "model.zip")
    load_agent("dt", device="cpu").save(tmp_path / "runs" / "dt-small")
    make_agent("dt", size="tiny", device="cpu").save(tmp_path / "runs" / "dt-paper")
    for name in ("bc", "dt"):
        write_results(tmp_path / "results" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_first_page_leads_to_every_public_name():
    text = (ROOT / "docs" / "index.md").read_text()
    packages = [*(ROOT / "mgdt_envs").rglob("__init__.py")]
    packages += (ROOT / "mgdt_agents").rglob("__init__.py")
    names = set()
    for path in packages:
        package = importlib.import_module(".".join(path.parent.relative_to(ROOT).parts))
        names |= {(package.__name__, name) for name in getattr(package, "__all__", ())}
    assert len(names) > 50
    linked = set(re.findall(r"\[(\w+)\]\[([\w.]+)\.\1\]", text))
    for package, name in names:
        assert any(name == link and home.startswith(package) for link, home in linked), name


def test_badges_say_what_the_package_says():
    package = (ROOT / "pyproject.toml").read_text()
    versions = re.findall(r"Python :: (3\.\d+)", package)
    badges = ROOT / "docs" / "badges"
    assert f"python: {versions[0]} to {versions[-1]}<" in (badges / "python.svg").read_text()
    (license_name,) = re.findall(r'^license = "(.+)"', package, re.M)
    assert f"license: {license_name}<" in (badges / "license.svg").read_text()


def test_blocks_are_found():
    assert len(blocks_of(ROOT / "README.md")) == 1
    assert sum(len(blocks_of(page)) for page in PAGES) >= 10


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)], ids=lambda p: p.stem)
def test_page(page, folder):
    names = {}
    for block in blocks_of(page):
        exec(compile(block, str(page), "exec"), names)
