"""What the conservative weight does to Q-learning on data of good and bad play.

`python -m tests.studies.conservative_weight` prints the table in docs/agents.md. The problem is a
small one with exact answers: a ball falls ten rows, a paddle of five places catches it, and each
catch is +1. After a miss the game waits until FIRE serves. There are Pong's six actions, of which
two stay, two go left and two go right; a quarter of the moves are not carried out. The data are
those of a learner that improves from random to nearly perfect play. Each state and action has its
own logits, so that nothing is left to a network; the weights of states are those of the data.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from mgdt_agents.q_learning import losses

COLUMNS, ROWS, DISCOUNT, STICKY, MAX_VALUE = 5, 10, 0.99, 0.25, 10.0
MOVES, SERVES = (0, 0, 1, -1, 1, -1), (0, 1, 0, 0, 1, 1)
ACTIONS = len(MOVES)
STATES: dict[tuple[int | str, int, int], int] = {
    place: number
    for number, place in enumerate(
        [("wait", 0, paddle) for paddle in range(COLUMNS)]
        + [
            (ball, row, paddle)
            for ball in range(COLUMNS)
            for row in range(ROWS)
            for paddle in range(COLUMNS)
        ]
    )
}
Array = NDArray[np.float64]


def problem() -> tuple[Array, Array]:
    """Return the probabilities of next states, `(S, A, S)`, and the expected rewards, `(S, A)`."""
    following = np.zeros((len(STATES), ACTIONS, len(STATES)))
    rewards = np.zeros((len(STATES), ACTIONS))
    for (ball, row, paddle), state in STATES.items():
        for action in range(ACTIONS):
            for move, probability in ((MOVES[action], 1 - STICKY), (0, STICKY)):
                after = min(COLUMNS - 1, max(0, paddle + move))
                carried_out = probability > STICKY
                caught = ball != "wait" and row + 1 == ROWS and ball == after
                rewards[state, action] += probability * caught
                if ball == "wait":
                    served = SERVES[action] and carried_out
                elif row + 1 < ROWS:
                    following[state, action, STATES[ball, row + 1, after]] += probability
                    continue
                else:
                    served = caught
                starts = [(new, 0, after) for new in range(COLUMNS)]
                for place in starts if served else [("wait", 0, after)]:
                    share = probability / (COLUMNS if served else 1)
                    following[state, action, STATES[place]] += share
    return following, rewards


FOLLOWING, REWARDS = problem()


def score(policy: Array) -> float:
    """Return catches in ten steps, on average over the first thousand."""
    transitions = np.einsum("sa,sat->st", policy, FOLLOWING)
    reward = (policy * REWARDS).sum(1)
    occupied = np.zeros(len(STATES))
    occupied[STATES["wait", 0, 2]] = 1
    total = 0.0
    for _ in range(1000):
        total += occupied @ reward
        occupied = occupied @ transitions
    return total / 1000 * ROWS


def greedy(values: Array) -> Array:
    """Return the policy that takes the action of largest value."""
    return np.eye(ACTIONS)[values.argmax(1)]


def data(exact: Array) -> tuple[Array, Array]:
    """Return what a learner that improves did, `(S, A)`, and how often it was where, `(S,)`."""
    random = np.random.default_rng(0)
    taken, visits = np.zeros_like(exact), np.zeros(len(STATES))
    for skill in np.linspace(0, 1, 20):
        noise = 0.3 * (1 - skill) ** 2 * random.normal(size=exact.shape)
        wanted = greedy(exact + noise + 1e-3 * random.normal(size=exact.shape))
        exploration = max(0.05, 1 - 2 * skill)
        policy = (1 - exploration) * wanted + exploration / ACTIONS
        transitions = np.einsum("sa,sat->st", policy, FOLLOWING)
        occupied = np.zeros(len(STATES))
        occupied[STATES["wait", 0, 2]] = 1
        for _ in range(600):
            taken += occupied[:, None] * policy
            visits += occupied
            occupied = occupied @ transitions
    return taken / visits[:, None].clip(1e-12), visits / visits.sum()


def learned_values(behavior: Array, visits: Array, weight: float, updates: int = 125) -> Array:
    """Return the values of `cql` with a table in the place of the network, `(S, A)`."""
    atoms = losses.atoms(MAX_VALUE, 51)
    shape = (len(STATES), ACTIONS, 51)
    logits = torch.zeros(shape, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    likelihood = torch.tensor(visits[:, None] * behavior).float()
    following, rewards = torch.tensor(FOLLOWING).float(), torch.tensor(REWARDS).float()
    for update in range(updates):
        target_logits = logits.detach().clone()
        best = losses.expected_values(target_logits, MAX_VALUE).argmax(1)
        after = losses.of_actions(target_logits, best).softmax(-1)
        after = torch.einsum("sat,tz->saz", following, after).flatten(0, 1)
        discounts = torch.full((len(after),), DISCOUNT)
        without, with_catch = (
            losses.c51_target(after, torch.full((len(after),), reward), discounts, atoms)
            for reward in (0.0, 1.0)
        )
        share = rewards.reshape(-1, 1)
        target = ((1 - share) * without + share * with_catch).reshape(shape)
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - update / updates)
        for _ in range(32):
            distributional = -(target * logits.log_softmax(-1)).sum(-1)
            values = losses.expected_values(logits, MAX_VALUE)
            loss = (likelihood * (distributional - weight * values.log_softmax(-1))).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return losses.expected_values(logits.detach(), MAX_VALUE).double().numpy()


def main() -> None:
    """Print the table."""
    exact = np.zeros((len(STATES), ACTIONS))
    for _ in range(3000):
        exact = REWARDS + DISCOUNT * FOLLOWING @ exact.max(1)
    behavior, visits = data(exact)
    print(f"best {score(greedy(exact)):.2f}, random {score(np.full_like(exact, 1 / 6)):.2f}")
    print(
        f"the data's actions, drawn {score(behavior):.2f}, likeliest {score(greedy(behavior)):.2f}"
    )
    for weight in (0.0, 0.03, 0.1, 0.3, 1.0, 4.0):
        values = learned_values(behavior, visits, weight)
        rounded = torch.tensor(values).bfloat16().double().numpy()
        softmax = torch.tensor(values / 0.3).softmax(-1).numpy()
        same = (values.argmax(1) == behavior.argmax(1)) @ visits
        print(
            f"weight {weight}: greedy {score(greedy(values)):.2f}, rounded to bf16 "
            f"{score(greedy(rounded)):.2f}, drawn by exp(Q / 0.3) {score(softmax):.2f}; "
            f"the data's likeliest action in {same:.0%} of the steps",
            flush=True,
        )


if __name__ == "__main__":
    main()
