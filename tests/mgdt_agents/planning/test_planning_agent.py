"""What the planner learns of a small world of pictures, and what it does with it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from mgdt_agents.planning import (
    PRESETS,
    Search,
    TrajectoryTransformerAgent,
    TrajectoryTransformerConfig,
)
from mgdt_agents.planning.tokenizer import Tokenizer, quantize
from mgdt_agents.training import TrainingConfig, train
from mgdt_envs import AtariProtocol
from tests.mgdt_agents.small_mdps import ACTIONS, GAME, SIDE, Problem, Row, pictures, protocol

DISCOUNT = 0.9
DETOUR = Problem(
    [
        [[(1.0, 3, 1.0)], [(1.0, 1, 0.0)], [(1.0, 0, 0.0)]],
        [[(1.0, 0, 0.0)], [(1.0, 0, 0.0)], [(1.0, 2, 1.0)]],
        [[(1.0, None, 1.0)], [(1.0, None, 0.0)], [(1.0, None, 0.0)]],
        [[(1.0, None, -1.0)]] * 3,
    ]
)
"""Action 0 brings 1 at once and then -1; the way round, by 2, 5 and 0, brings 0, 1 and 1."""
CONFIG = TrajectoryTransformerConfig(
    layers=2,
    width=64,
    context=1,
    horizon=2,
    frame_size=SIDE,
    grid=3,
    cells=1,
    channels=16,
    code_size=2,
    levels=3,
    tokenizer_steps=150,
    max_value=2.0,
    value_discount=DISCOUNT,
    likely=0.0,
    # Values see one reward and no further: the target network stays what it was before training,
    # so they are wrong on purpose.
    n_steps=1,
    target_period=10**9,
)


@pytest.fixture(scope="module")
def detour(write_store, tmp_path_factory) -> Path:
    """A store of random play of DETOUR."""
    rows = [Row(*episode) for episode in DETOUR.record(np.full((4, 3), 1 / 3), 300)]
    folder = tmp_path_factory.mktemp("detour") / "store"
    return write_store(folder, GAME, rows, stack=1, screen_size=SIDE)


def learned(
    detour: Path, config: TrajectoryTransformerConfig, steps: int
) -> tuple[TrajectoryTransformerAgent, list[dict[str, float]]]:
    """Return the agent after a training, and the lines of its log."""
    torch.manual_seed(0)
    agent = TrajectoryTransformerAgent(
        config, search=Search(likely=0.0), protocol=protocol(), device="cpu"
    )
    training = TrainingConfig(
        replay=(detour,),
        steps=steps,
        batch_size=32,
        optimizer="adamw",
        learning_rate=5e-3,
        warmup_steps=10,
        decay="linear",
        log_interval=5,
    )
    lines: list[dict[str, float]] = []
    train(agent, training, on_log=lines.append)
    return agent, lines


@pytest.fixture(scope="module")
def trained(detour) -> TrajectoryTransformerAgent:
    """The agent after a training on DETOUR that suffices."""
    return learned(detour, CONFIG, 550)[0]


def test_both_stages_learn(detour):
    agent, lines = learned(detour, dataclasses.replace(CONFIG, tokenizer_steps=20), 50)
    for name in ("changed_error", "frame_loss", "reward_loss", "end_loss", "value_loss"):
        column = [line[name] for line in lines if name in line]
        assert len(column) >= 4, name
        assert column[-1] < 0.95 * column[0], (name, column)
    frames = agent.imagine(pictures([0, 1])[:, None], np.array([[0, 2, 5]] * 2)).frames
    assert (frames.shape, frames.dtype) == ((2, 3, SIDE, SIDE), np.uint8)


def episode_return(agent: TrajectoryTransformerAgent) -> float:
    """Return what a greedy episode of DETOUR brings."""
    agent.beta = 1e6  # scores alone
    state: int | None = 0
    agent_state, total, steps = None, 0.0, 0
    while state is not None and steps < 10:
        action, agent_state = agent.predict(
            pictures([state])[:, None], agent_state, deterministic=True
        )
        ((_, state, reward),) = DETOUR.outcomes[state][ACTIONS.index(int(action[0]))]
        total, steps = total + reward, steps + 1
    return total


@pytest.mark.slow
def test_two_steps_of_look_ahead_are_right_where_greedy_values_are_wrong(trained):
    returns = {}
    for horizon in (0, 1, 2):
        trained.search = Search(horizon=horizon, likely=0.0)
        returns[horizon] = episode_return(trained)
    assert returns[0] == 0  # 1 and -1
    assert returns[2] == 2  # the optimum
    assert DETOUR.q_values(1.0)[0].max() == 2


@pytest.mark.slow
def test_scores_are_those_of_the_world(trained):
    # One reward further than the horizon: the values see that.
    trained.search = Search(horizon=2, beam=9, likely=0.0)
    scores = trained.action_scores(pictures([0])[:, None])
    myopic = [DISCOUNT * -1 + 1, DISCOUNT + DISCOUNT**2, DISCOUNT**2]
    np.testing.assert_allclose(scores[0, list(ACTIONS)], myopic, atol=0.1)


@pytest.mark.slow
def test_next_frames_are_those_of_the_world(trained):
    for state, outcomes in enumerate(DETOUR.outcomes):
        for action, ((_, following, _),) in zip(ACTIONS, outcomes, strict=True):
            if following is None:
                continue
            frame = trained.imagine(pictures([state])[:, None], np.array([[action]])).frames[0, 0]
            error = np.abs(frame.astype(int) - pictures([following])[0])
            assert error.max() < 25, (state, action)  # of 255


def test_tokenizer_is_its_convolutions():
    torch.manual_seed(0)
    tokenizer = Tokenizer(PRESETS["tiny"])
    frames = torch.randint(256, (2, 84, 84), dtype=torch.uint8)
    with torch.no_grad():
        for position in (tokenizer.position_in, tokenizer.position_out):
            position.normal_()
        numbers = tokenizer.encoder(tokenizer.input(frames[:, None] / 255) + tokenizer.position_in)
        code = tokenizer.output(quantize(numbers, PRESETS["tiny"].levels))
        expected = tokenizer.decoder(code + tokenizer.position_out)[:, 0]
        torch.testing.assert_close(tokenizer(frames), expected)


def test_temperature_sharpens():
    frames = np.random.default_rng(0).integers(256, size=(64, 4, 84, 84), dtype=np.uint8)
    agent = TrajectoryTransformerAgent("tiny", search=Search(horizon=0), beta=0, device="cpu")
    best, _ = agent.predict(frames, deterministic=True)
    shares = []
    for temperature in (1.0, 0.1, 1e-4):
        agent.action_temperature = temperature
        actions, _ = agent.predict(frames)
        shares.append((actions == best).mean())
        scores = agent.action_scores(frames)[np.arange(len(frames)), actions]
        assert np.isfinite(scores).all()  # candidates alone, whatever beta is
    assert shares[0] < shares[1] < shares[2] == 1


def test_ways_of_acting_are_saved(tmp_path):
    search = Search(horizon=1, beam=2, likely=0.25)
    options = {"search": search, "beta": 3.0, "action_temperature": 0.7}
    agent = TrajectoryTransformerAgent("tiny", **options, device="cpu")
    agent.save(tmp_path)
    loaded = TrajectoryTransformerAgent.load(tmp_path, device="cpu")
    assert {name: getattr(loaded, name) for name in options} == options
    assert TrajectoryTransformerAgent.load(tmp_path, search=Search(), device="cpu").search.beam == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": AtariProtocol(screen_size=42)}, "2 frames of 84 pixels, the .* 4 of 42"),
        ({"protocol": AtariProtocol(stack=1)}, "2 frames of 84 pixels, the .* gives 1 of 84"),
        ({"beta": -1}, "beta must be at least 0, got -1"),
        ({"action_temperature": 0}, "action_temperature must be above 0, got 0"),
        ({"search": 2}, r"Expected a search, such as Search\(.*\), got 2"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        TrajectoryTransformerAgent("tiny", device="cpu", **options)


def test_settings_are_checked_wherever_they_are_set():
    agent = TrajectoryTransformerAgent("tiny", search=Search(horizon=0), device="cpu")
    for name, value in (("beta", -5.0), ("beta", np.nan), ("action_temperature", 0.0)):
        before = getattr(agent, name)
        setattr(agent, name, value)
        with pytest.raises(ValueError, match=f"{name} must be .* 0, got {value}"):
            agent.predict(np.zeros((4, 84, 84), np.uint8))
        setattr(agent, name, before)
    agent.predict(np.zeros((4, 84, 84), np.uint8))


def test_imagines_in_bf16():
    agent = TrajectoryTransformerAgent("tiny", device="cpu")
    frames = np.random.default_rng(0).integers(256, size=(2, 4, 84, 84), dtype=np.uint8)
    expected = agent.model.tokenizer(torch.from_numpy(frames[:, 0]))
    agent.model.bfloat16()
    found = agent.model.tokenizer(torch.from_numpy(frames[:, 0]))
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)
    imagined = agent.imagine(frames, np.zeros((2, 2), int))
    assert (imagined.frames.shape, imagined.rewards.dtype) == ((2, 2, 84, 84), np.float32)


def test_actions_are_imagined_as_their_game_plays_them():
    torch.manual_seed(0)
    agent = TrajectoryTransformerAgent("tiny", games=["Freeway", "Pong"], device="cpu")
    with torch.no_grad():
        for parameter in agent.model.parameters():
            parameter.mul_(3)  # so that actions matter
    frames = np.random.default_rng(0).integers(256, size=(2, 4, 84, 84), dtype=np.uint8)
    fire, expected = np.array([[1, 2], [1, 2]]), np.array([[0, 2], [1, 0]])
    found = agent.imagine(frames, fire, game=["Freeway", "Pong"])
    for part, of_played, as_it_is in zip(
        found, agent.imagine(frames, expected), agent.imagine(frames, fire), strict=True
    ):
        np.testing.assert_array_equal(part, of_played)
        assert (part != as_it_is).any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"horizon": -1}, "horizon must be at least 0, got -1"),
        ({"frame_size": 80}, "multiple of grid times cells, got 80, 6 and 2"),
        ({"width": 100}, "width must be a multiple of 64, got 100"),
        ({"likely": 2}, r"likely must be in \[0, 1\], got 2"),
        ({"value_loss": "mse"}, "'hl_gauss' or 'c51', got 'mse'"),
    ],
)
def test_bad_sizes(fields, message):
    with pytest.raises(ValueError, match=message):
        TrajectoryTransformerConfig(**fields)


def test_bad_questions():
    agent = TrajectoryTransformerAgent("tiny", games=["Pong"], device="cpu")
    observations = np.zeros((2, 4, 84, 84), np.uint8)
    with pytest.raises(ValueError, match=r"cannot imagine \['Breakout'\]: .*\['Pong'\].*--init"):
        agent.predict(observations, game=["Pong", "Breakout"])
    for actions in (np.zeros(2, int), np.zeros((2, 0), int), np.zeros((3, 1), int)):
        with pytest.raises(ValueError, match=r"actions of shape \(2, H\), H at least 1, got"):
            agent.imagine(observations, actions)
    for actions in (np.full((2, 1), 18), [[-1], [0]], np.zeros((2, 1))):
        with pytest.raises(ValueError, match=r"actions that are integers in 0\.\.17, got"):
            agent.imagine(observations, actions)
    agent.search = Search(horizon=3)
    with pytest.raises(ValueError, match="at most 2 imagined steps after 2 real ones"):
        agent.predict(observations)
