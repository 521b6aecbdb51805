"""The live wall's server against what it cannot do without: decisions and emulators.

12 games of the bundled agent, though it learned three, with its explanations and the picture as it
is sent. What counts is the processor's time of all threads, so the page and other programs do not.
"""

import time

import numpy as np

from mgdt_agents import load_agent
from mgdt_agents.play import Wall
from mgdt_agents.play.server import WallServer
from tests.perf.timing import Figure, take_turns

GAMES = (
    *("Alien", "Asterix", "BeamRider", "Boxing", "Breakout", "Enduro"),
    *("Freeway", "MsPacman", "Pong", "Qbert", "Seaquest", "SpaceInvaders"),
)
STEPS = 20  # of a round


def measure() -> dict[str, Figure]:
    """Return the figures `wall.*`."""
    agent = load_agent("dt", device="cpu")
    wall = Wall(agent, GAMES, explain=True)
    server = WallServer(wall, ["dt"], load_agent)
    envs = wall.envs

    def show() -> None:
        for _ in range(STEPS):
            server._next_picture()
            server._message(None)

    def play() -> None:
        state, rewards = None, np.zeros(len(GAMES))
        observations = wall._observations
        for _ in range(STEPS):
            actions, state = agent.predict(
                observations, state, reward=rewards, game=envs.games_of_envs
            )
            observations, rewards, *_ = envs.step(actions)

    seconds = take_turns({"show": show, "play": play}, clock=time.process_time)
    wall.close()
    peer = f"predict of {len(GAMES)} games and emulators, with color, alone; processor time"
    return {
        "wall.step_vs_play": Figure(float(np.median(seconds["play"] / seconds["show"])), "x", peer),
        "wall.step_milliseconds": Figure(
            float(np.median(seconds["show"])) / STEPS * 1000,
            "ms",
            f"a step of {len(GAMES)} games and its picture, processor time",
        ),
    }
