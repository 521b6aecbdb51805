"""How a saved agent acts, changed by what stands behind its name."""

import json

import pytest

from mgdt_agents import load_agent, make_agent
from mgdt_agents.acting_settings import split_settings
from mgdt_agents.decision_transformer import BestOfSamples, ExpertReturn, TargetReturn
from mgdt_agents.evaluation.episode_log import fingerprint
from mgdt_agents.planning import Search


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dt", ("dt", {})),
        ("hf://user/name:beta=2", ("hf://user/name", {"beta": "2"})),
        ("runs/a=1/dt:kappa=1:kappa_=", ("runs/a=1/dt", {"kappa": "1", "kappa_": ""})),
        ("C:\\runs\\dt", ("C:\\runs\\dt", {})),
        ("results:dt", ("results:dt", {})),
        ("dt:kappa=0,dt:kappa=1", ("dt:kappa=0,dt", {"kappa": "1"})),
    ],
)
def test_names_and_settings(name, expected):
    assert split_settings(name) == expected


@pytest.mark.parametrize(
    ("kind", "settings", "attribute", "expected"),
    [
        ("dt", "kappa=3", "rule", ExpertReturn(kappa=3.0)),
        (
            "dt",
            "kappa=3:action_temperature=0.5",
            "rule",
            ExpertReturn(kappa=3.0, action_temperature=0.5),
        ),
        ("dt", "rule=BestOfSamples:samples=16", "rule", BestOfSamples(samples=16)),
        ("dt", "target=20:rule=TargetReturn", "rule", TargetReturn(target=20.0)),
        ("dtq", "beta=0", "beta", 0.0),
        ("bc_conv", "action_temperature=0.25", "action_temperature", 0.25),
        ("tt", "horizon=1:likely=0", "search", Search(horizon=1, likely=0.0)),
        ("tt", "beta=2", "beta", 2.0),
    ],
)
def test_settings_take_the_place_of_saved_ones(kind, settings, attribute, expected, tmp_path):
    agent = make_agent(kind, "tiny", device="cpu")
    agent.save(tmp_path / "agent")
    changed = load_agent(f"{tmp_path}/agent:{settings}", device="cpu")
    assert getattr(changed, attribute) == expected
    # What is compared before an episode counts as played already.
    assert fingerprint(changed) != fingerprint(agent)
    assert fingerprint(load_agent(tmp_path / "agent", device="cpu")) == fingerprint(agent)


def test_settings_that_agents_saved_before_do_not_name(tmp_path):
    make_agent("dt", "tiny", device="cpu").save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rule"]["guidance"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    agent = load_agent(f"{tmp_path}:guidance=1", device="cpu")
    assert agent.rule == ExpertReturn(guidance=1.0)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("dt", "kapa=3", "Unknown setting 'kapa' of how dt acts. Did you mean 'kappa'"),
        ("dt", "kappa=much", "kappa of dt must be a number, got 'much'"),
        ("dt", "kappa=nan", "kappa of dt must be a number, got 'nan'"),
        ("dt", "kappa=1:kappa=2", "kappa of .* is given twice"),
        ("dt", "action_temperature=0", "action_temperature must be above 0"),
        ("dt", "rule=BestOfSample", "Unknown rule 'BestOfSample'. Did you mean 'BestOfSamples'"),
        ("dt", "rule=TargetReturn", "TargetReturn needs its target"),
        ("dt", "rule=Greedy:kappa=2", "Unknown setting 'kappa'"),
        ("dtq", "beta=-1", "beta must be a finite number, not negative, got -1.0"),
        ("tt", "horizon=1.5", "horizon of tt must be an integer, got '1.5'"),
        ("cql", "kappa=2", "Unknown setting 'kappa' of how cql acts. It has no settings"),
    ],
)
def test_settings_that_cannot_be(kind, settings, message, tmp_path):
    make_agent(kind, "tiny", device="cpu").save(tmp_path / "agent")
    with pytest.raises(ValueError, match=message):
        load_agent(f"{tmp_path}/agent:{settings}", device="cpu")


def test_random_has_no_settings():
    with pytest.raises(ValueError, match=r"Unknown setting 'kappa' of how random acts"):
        load_agent("random:kappa=2")
