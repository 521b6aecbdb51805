"""The arguments of the commands: their forms, help, and what is wrong with them."""

import inspect
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import tyro

from mgdt_agents.registry import bundled_agents
from mgdt_cli.arguments import Games, Paths, Steps, parse, parse_number, parse_steps
from mgdt_cli.bench import BenchArguments
from mgdt_cli.play import PlayArguments
from mgdt_cli.replay_trace import TraceArguments


@dataclass(frozen=True, kw_only=True)
class Plain:
    """Fields of plain types, as configurations outside the commands have them."""

    interval: int = 10_000
    """Steps between two lines."""
    replay: tuple[str, ...] = ()
    """Folders."""
    workers: int | None = None
    """Processes."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of each form."""

    stores: tyro.conf.Positional[Paths] = ()
    """Stores."""
    games: Games = ()
    """Games."""
    limit_steps: Steps | None = None
    """Steps at most."""
    output: Path | None = None
    """Folder."""
    folder: Path = Path("replay")
    """Another one."""
    store: bool = False
    """Write it."""
    report: bool = True
    """Write that, or not."""
    plain: Plain = field(default_factory=Plain)


@pytest.fixture
def read(monkeypatch):
    def read(*arguments):
        monkeypatch.setattr(sys, "argv", ["/somewhere/bin/mgdt-it", *arguments])
        return parse(Arguments, "What it does.\n\nExamples:\n    mgdt-it a b\n    mgdt-it c")

    return read


@pytest.mark.parametrize(
    ("text", "steps"),
    [("500000", 500_000), ("1_000", 1000), ("200k", 200_000), ("1.5M", 1_500_000), (" 2m ", 2e6)],
)
def test_parse_steps(text, steps):
    assert parse_steps(text) == steps
    assert parse_number("-" + text.strip()) == -steps


@pytest.mark.parametrize("text", ["", "0", "-5", "0.1", "2.5", "1.5g", "many", "1__0", "m"])
def test_no_number_of_steps(text):
    with pytest.raises(ValueError, match=r"such as 500000, 500k or 1.5m, got"):
        parse_steps(text)


def test_one_form_of_arguments(read, tmp_path):
    assert read() == Arguments()
    comma = read("a,b", "--games", "Pong,Boxing", "--plain.replay", "a,b", "--limit-steps", "2k")
    space = read("a", "b", "--games", "Pong", "Boxing", "--plain.replay", "a", "b")
    assert comma.stores == space.stores == (Path("a"), Path("b"))
    assert comma.games == space.games == ("Pong", "Boxing")
    assert comma.plain.replay == space.plain.replay == ("a", "b")
    assert comma.limit_steps == 2000
    assert read("--plain.interval", "1.5k", "--plain.workers", "3").plain == Plain(
        interval=1500, workers=3
    )
    assert read("a,~/b", "~no-such-user/c").stores == (
        Path("a"),
        Path.home() / "b",
        Path("~no-such-user/c"),
    )
    assert read("--output=~/a").output == Path.home() / "a"
    assert read("--output", "~no-such-user/a").output == Path("~no-such-user/a")
    assert read("--folder=~/a").folder == Path.home() / "a"
    (tmp_path / "a,b").mkdir()
    assert read(str(tmp_path / "a,b")).stores == (tmp_path / "a,b",)


def test_help(read, capsys):
    with pytest.raises(SystemExit) as caught:
        read("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: mgdt-it ")
    assert "\nExamples:\n    mgdt-it a b\n    mgdt-it c\n" in text
    for empty in ("None", "False", "True", "default: )", "[[", "/somewhere", "--no-store"):
        assert empty not in text
    assert "--limit-steps STEPS" in text
    assert "--plain.replay NAME[,NAME...]" in text
    assert "(default: 10k)" in text


@pytest.mark.parametrize(
    "arguments", [("--limit-steps", "abc"), ("--plain.interval", "abc"), ("--plain.workers", "abc")]
)
def test_wrong_number(read, capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        read(*arguments)
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert f"parsing {arguments[0]}: Expected a" in printed
    assert "got 'abc'" in " ".join(printed.replace("│", "").split())
    for internal in ("lambda", "NoneType", "invalid literal"):
        assert internal not in printed


@pytest.mark.parametrize("command", ["bench", "collect", "replay", "train"])
def test_help_and_version_of_command(command, monkeypatch, capsys):
    main = __import__(f"mgdt_cli.{command}", fromlist=["main"]).main
    monkeypatch.setattr(sys, "argv", [f"/bin/mgdt-{command}", "--help"])
    with pytest.raises(SystemExit):
        main()
    text = capsys.readouterr().out
    assert text.count(f"\n    mgdt-{command} ") >= 3  # examples
    assert "None" not in text
    assert "default: )" not in text
    monkeypatch.setattr(sys, "argv", [f"/bin/mgdt-{command}", "--version"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert not caught.value.code
    assert capsys.readouterr().out.startswith(f"mgdt-{command} 0.")


@pytest.mark.parametrize(
    ("command", "name", "says"),
    [
        ("bench", "compare", "Say which of two agents is better"),
        ("bench", "import-scores", "Put published scores beside those"),
        ("bench", "verify", "Play every episode of a folder of results again"),
        ("train", "curves", "Draw what trainings logged"),
        ("replay", "expand", "Regenerate replay stores"),
    ],
)
def test_help_of_a_commands_command(command, name, says, monkeypatch, capsys):
    main = __import__(f"mgdt_cli.{command}", fromlist=["main"]).main
    monkeypatch.setattr(sys, "argv", [f"/bin/mgdt-{command}", name, "--help"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert not caught.value.code
    text = capsys.readouterr().out
    assert text.startswith(f"usage: mgdt-{command} {name} ")
    assert says in text


@pytest.mark.parametrize("kind", [BenchArguments, PlayArguments, TraceArguments])
def test_help_names_the_bundled_agents(kind):
    (names,) = re.findall(r"undled agents? \((.*?)\)", inspect.getsource(kind), re.DOTALL)
    assert sorted(names.split(", ")) == list(bundled_agents())
