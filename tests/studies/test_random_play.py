"""The study of random play reads what the benchmark writes."""

import sys

import numpy as np

from mgdt_agents import load_agent
from mgdt_agents.evaluation import BenchmarkConfig, run_benchmark
from tests.studies import random_play


def test_tables(monkeypatch, tmp_path, capsys):
    config = BenchmarkConfig(games=("Breakout", "Freeway"), episodes=3, max_steps=30)
    results = run_benchmark({"random": load_agent("random")}, config)
    results.save(tmp_path / "results.json")
    monkeypatch.setattr(random_play, "play", lambda name, protocol, episodes: np.arange(episodes))
    monkeypatch.setattr(sys, "argv", ["random_play", str(tmp_path / "results.json")])
    random_play.main()
    printed = capsys.readouterr().out
    # 30 steps bring nothing in either game; the published score in Freeway is 0, too.
    assert "1 of 2 games differ." in printed
    assert "| Breakout | 4 | 1.7 | 0.0 ± 0.0 * | 1.0 ± 2.5 | 1.0 ± 2.5 |" in printed
    assert "| Freeway | 0.0 | 0.0 [0.0, 0.0] |  |" in printed
