"""Windows drawn from stores, against windows cut by hand from what was written."""

from functools import partial

import numpy as np
import pytest

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import ReplayStore, WindowSampler
from mgdt_agents.replay.prefetch import batches

SIDE = 8
LENGTHS = (1, 2, 30, 3, 64, 9)


@pytest.fixture(scope="module")
def episodes(make_random_episodes):
    return make_random_episodes(LENGTHS, side=SIDE)


@pytest.fixture(scope="module")
def store(episodes, write_store, tmp_path_factory):
    path = tmp_path_factory.mktemp("replay") / "Pong"
    return ReplayStore(write_store(path, "Pong", episodes, screen_size=SIDE))


@pytest.fixture
def damaged_store(episodes, write_store, tmp_path):
    """Return a function that changes a value of a column of a store."""

    def damage(name, row, value):
        path = write_store(tmp_path / "damaged", "Pong", episodes, screen_size=SIDE)
        column = np.load(path / f"{name}.npy")
        column[row] = value
        np.save(path / f"{name}.npy", column)
        return path

    return damage


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [("rewards", np.nan, "a reward that is NaN"), ("actions", 18, "action 18")],
)
@pytest.mark.parametrize("row", [0, 70, sum(LENGTHS) - 1])
def test_damaged_columns(damaged_store, name, value, found, row):
    path = damaged_store(name, row, value)
    with pytest.raises(ReplayError, match=f"in {path}, found {found} in rows 0 to"):
        WindowSampler([path])


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_frames(make_random_episodes, write_store, tmp_path, workers):
    episodes = make_random_episodes([1100, 900], side=SIDE)
    path = write_store(tmp_path / "damaged", "Pong", episodes, screen_size=SIDE)
    whole = ReplayStore(path)
    chunk = whole.frames.schunk.get_chunk(1)
    content = (path / "frames.b2nd").read_bytes()
    begin = content.index(chunk)
    (path / "frames.b2nd").write_bytes(content[:begin] + bytes(32) + content[begin + 32 :])
    sampler = WindowSampler([path])
    with pytest.raises(ReplayError, match=f"^Cannot read the frames of rows .* of {path}: it is"):
        list(batches(partial(sampler.sample, 4), range(2), workers=workers))


@pytest.fixture
def make_store(make_random_episodes, write_store, tmp_path):
    """Return a function that writes a small store, each with noise of its own."""

    def make(game, lengths, rewards=None):
        number = len(list(tmp_path.iterdir()))
        episodes = make_random_episodes(lengths, side=SIDE, seed=number)
        if rewards is not None:
            episodes = [
                episode._replace(rewards=np.array(row))
                for episode, row in zip(episodes, rewards, strict=True)
            ]
        path = tmp_path / f"store-{number}"
        return ReplayStore(write_store(path, game, episodes, screen_size=SIDE))

    return make


def row_numbers(frames):
    """Return the rows of the store that `frames` are from; see `random_episodes`."""
    return frames[..., 0, :4].copy().view("<u4")[..., 0].astype(int)


def window_by_hand(episodes, drawn, steps, future, discount):
    """Return the fields of the window around row `drawn` of the store, by plain loops."""
    first = 0
    for episode in episodes:
        if drawn < first + len(episode.actions):
            break
        first += len(episode.actions)
    length = len(episode.actions)
    returns = [
        sum(discount**ahead * min(1, max(-1, r)) for ahead, r in enumerate(episode.rewards[row:]))
        for row in range(length)
    ]
    window = []
    for row in range(drawn - first - steps + 1, drawn - first + future + 1):
        if 0 <= row < length:
            ended = row == length - 1 and not episode.truncated
            numbers = episode.actions[row], episode.rewards[row], returns[row], ended, True
            window.append((episode.frames[row], *numbers))
        else:
            black = np.zeros((SIDE, SIDE), np.uint8)
            window.append((black, 0, 0.0, returns[0] if row < 0 else 0, False, False))
    return tuple(map(np.array, zip(*window, strict=True)))


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize(("steps", "future"), [(1, 0), (4, 0), (4, 3), (3, 70), (70, 2)])
def test_windows_equal_those_cut_by_hand(store, episodes, steps, future, discount):
    sampler = WindowSampler([store], steps=steps, future=future, discount=discount)
    batch = sampler.sample(200, step=0)
    assert [field.dtype for field in batch[:8]] == [
        np.uint8,
        np.int64,
        np.float32,
        np.float32,
        bool,
        bool,
        np.int64,
        np.float32,
    ]
    drawn = row_numbers(batch.frames[:, steps - 1])
    for number, row in enumerate(drawn):
        expected = window_by_hand(episodes, row, steps, future, discount)
        for name, field, array in zip(batch._fields, batch, expected, strict=False):
            assert field[number].shape == array.shape
            np.testing.assert_allclose(field[number], array, 1e-6, 1e-6, err_msg=f"{name} {row}")
    assert batch.valid[:, steps - 1].all()
    # Windows that lack rows at either end, or at both, were among them.
    assert (~batch.valid[:, 0]).any() == (steps > 1)
    assert (~batch.valid[:, -1]).any() == (future > 0)
    assert not batch.valid.all(1).any() or (steps, future) != (3, 70)


def test_padding_at_an_episode_s_start(make_store):
    store = make_store("Pong", [3], rewards=[[2, -5, 0]])
    batch = WindowSampler([store], steps=5).sample(60, step=0)
    drawn = row_numbers(batch.frames[:, -1])
    second = batch.frames[np.flatnonzero(drawn == 1)[0]]
    assert not second[:3].any()
    assert row_numbers(second[3:]).tolist() == [0, 1]
    row = np.flatnonzero(drawn == 1)[0]
    assert batch.valid[row].tolist() == [False, False, False, True, True]
    assert batch.actions[row].tolist() == [0, 0, 0, *store.actions[:2]]
    assert batch.rewards[row].tolist() == [0, 0, 0, 2, -5]
    # 1 - 1 + 0 is the whole episode's, -1 + 0 what is left at its second step.
    assert batch.returns_to_go[row].tolist() == [0, 0, 0, 0, -1]
    last = np.flatnonzero(drawn == 2)[0]
    assert batch.returns_to_go[last].tolist() == [0, 0, 0, -1, 0]


def test_padding_after_an_episode_s_end(make_store):
    store = make_store("Pong", [2, 2], rewards=[[1, 1], [1, 1]])
    batch = WindowSampler([store], steps=1, future=2).sample(60, step=0)
    drawn = row_numbers(batch.frames[:, 0])
    row = np.flatnonzero(drawn == 1)[0]  # the last of the first episode, which terminated
    assert batch.valid[row].tolist() == [True, False, False]
    assert batch.terminated[row].tolist() == [True, False, False]
    assert batch.returns_to_go[row].tolist() == [1, 0, 0]
    row = np.flatnonzero(drawn == 3)[0]  # the last of the second, which was truncated
    assert not batch.terminated[row].any()
    assert not batch.frames[row, 1:].any()


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([7.0] * 135, list(range(135, 0, -1))),
        ([-3.0] * 25, list(range(-25, 0))),
        ([-1.0] * 25 + [1.0] * 30, [*range(5, 30), *range(30, 0, -1)]),
        ([0.5, 0.25, 0.25, -0.5], [0.5, 0.0, -0.25, -0.5]),
    ],
    ids=["high", "low", "both", "fractions"],
)
def test_rewards_are_clipped_and_returns_are_not(make_store, rewards, expected):
    store = make_store("Pong", [len(rewards)], rewards=[rewards])
    batch = WindowSampler([store], steps=1).sample(1000, step=0)
    drawn = row_numbers(batch.frames[:, 0])
    assert len(np.unique(drawn)) == len(rewards)
    assert batch.returns_to_go[:, 0].tolist() == np.array(expected)[drawn].tolist()
    # The rewards themselves stay as they were.
    assert batch.rewards[:, 0].tolist() == np.array(rewards)[drawn].tolist()


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_draws_depend_on_seed_and_step_alone(store):
    sampler = WindowSampler([store], seed=5)
    batches = [sampler.sample(16, step) for step in range(3)]
    # In another order, and by another sampler.
    other = WindowSampler([store.path], seed=5)
    assert all(same(other.sample(16, step), batches[step]) for step in (2, 0, 1))
    assert same(sampler.sample(16, 1), batches[1])
    assert not same(batches[0], batches[1])
    assert not same(WindowSampler([store], seed=6).sample(16, 0), batches[0])
    # Seed and step are not one number.
    assert not same(WindowSampler([store], seed=6).sample(16, 1), batches[2])


def assert_drawn_as(counts, probabilities):
    """Assert that `counts` are within four standard deviations of their expectation."""
    expected = counts.sum() * np.array(probabilities)
    assert (np.abs(counts - expected) < 4 * np.sqrt(expected)).all(), (counts, expected)


def test_steps_are_drawn_uniformly(store):
    sampler = WindowSampler([store], steps=1)
    drawn = row_numbers(sampler.sample(8000, step=0).frames[:, 0])
    assert_drawn_as(np.bincount(drawn, minlength=len(store)), np.full(len(store), 1 / len(store)))


def test_games_are_drawn_equally_and_stores_of_one_game_by_size(make_store):
    stores = [make_store("Pong", [30, 30]), make_store("Breakout", [300]), make_store("Pong", [20])]
    sampler = WindowSampler(stores, steps=1)
    assert sampler.games == ("Pong", "Breakout")
    batch = sampler.sample(4000, step=0)
    known = {
        frame.tobytes(): number for number, store in enumerate(stores) for frame in store.frames[:]
    }
    assert len(known) == 380
    picks = np.array([known[frame.tobytes()] for frame in batch.frames[:, 0]])
    assert batch.games.tolist() == [[0, 1, 0][pick] for pick in picks]
    assert_drawn_as(np.bincount(picks, minlength=3), [3 / 8, 1 / 2, 1 / 8])


def test_top_fraction_keeps_the_episodes_of_highest_return(make_store):
    # Returns 0, 3, 1, 9 (a single reward, which clipping makes 1), 3, 0, 2.
    rewards = [[0, 0], [1, 1, 1], [1], [9, 0], [1, 2], [0], [2, 0]]
    lengths = [len(row) for row in rewards]
    store = make_store("Pong", lengths, rewards=rewards)
    episode_of_row = np.repeat(np.arange(7), lengths)
    returns_to_go = np.array([0, 0, 3, 2, 1, 1, 1, 0, 2, 1, 0, 1, 0])
    for fraction, kept in [
        (0.1, {3}),
        (2 / 7, {1, 3}),  # the first of two that tie
        (0.3, {1, 3, 4}),  # 2.1 episodes are three
        (0.5, {1, 3, 4, 6}),
        (1.0, set(range(7))),
    ]:
        batch = WindowSampler([store], steps=3, top_fraction=fraction).sample(300, step=0)
        drawn = row_numbers(batch.frames[:, -1])
        assert set(episode_of_row[drawn]) == kept
        # Every step of them is drawn, with the return of the step's own episode.
        assert len(set(drawn)) == sum(lengths[episode] for episode in kept)
        assert batch.returns_to_go[:, -1].tolist() == returns_to_go[drawn].tolist()


def test_ranks_are_the_share_of_the_game_s_steps_in_lesser_episodes(make_store):
    stores = [
        make_store("Pong", [2, 3, 1], rewards=[[5, 0], [1, 0, 0], [1]]),
        make_store("Freeway", [4], rewards=[[0, 0, 0, 9]]),
        make_store("Pong", [4], rewards=[[0, 0, 0, 9]]),
    ]
    batch = WindowSampler(stores, steps=1).sample(400, step=0)
    known = {
        frame.tobytes(): (number, row)
        for number, store in enumerate(stores)
        for row, frame in enumerate(store.frames[:])
    }
    # Of Pong's ten steps, four brought 1 in all, two 5 and four 9; of Freeway there is one episode.
    expected = [[0.4, 0.4, 0, 0, 0, 0], [0] * 4, [0.6] * 4]
    drawn = [known[frame.tobytes()] for frame in batch.frames[:, 0]]
    assert set(drawn) == set(known.values())
    np.testing.assert_allclose(batch.episode_ranks, [expected[s][row] for s, row in drawn])
    # They are the data's, whatever is drawn of them.
    top = WindowSampler([stores[0]], steps=1, top_fraction=0.1).sample(10, step=0)
    np.testing.assert_allclose(top.episode_ranks, 4 / 6)


def test_return_weighting_draws_better_episodes_oftener(make_store):
    # Of the game's 20 steps, 8 brought 0, then 2 of rank 0.4, 4 of rank 0.5, 6 of rank 0.7.
    stores = [
        make_store("Pong", [8, 4], rewards=[[0] * 8, [0, 0, 0, 2]]),
        make_store("Pong", [2, 6], rewards=[[1, 0], [0, 9, 0, 0, 0, 0]]),
    ]
    sampler = WindowSampler(stores, steps=1, return_weighting=3.0)
    known = {
        frame.tobytes(): row
        for row, frame in enumerate(f for store in stores for f in store.frames[:])
    }
    batch = sampler.sample(20000, step=0)
    drawn = [known[frame.tobytes()] for frame in batch.frames[:, 0]]
    weights = np.exp(3 * np.repeat([0, 0.5, 0.4, 0.7], [8, 4, 2, 6]))
    assert_drawn_as(np.bincount(drawn, minlength=20), weights / weights.sum())
    # The largest weighting still draws, the best steps alone.
    best = WindowSampler(stores, steps=1, return_weighting=100.0).sample(1000, step=0)
    assert {known[frame.tobytes()] for frame in best.frames[:, 0]} == set(range(14, 20))
    assert same(
        WindowSampler(stores, return_weighting=0.0).sample(64, 3),
        WindowSampler(stores).sample(64, 3),
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps >= 1 and future >= 0, got 0 and 0"),
        ({"future": -1}, "got 4 and -1"),
        ({"top_fraction": 0.0}, r"top_fraction in \(0, 1\], got 0.0"),
        ({"top_fraction": 1.5}, "got 1.5"),
        ({"return_weighting": -1.0}, r"return_weighting in \[0, 100\], got -1.0"),
        ({"return_weighting": float("nan")}, "got nan"),
        ({"discount": 0.0}, r"discount in \(0, 1\], got 0.0"),
        ({"discount": 1.1}, "got 1.1"),
    ],
)
def test_bad_arguments(store, arguments, message):
    with pytest.raises(ValueError, match=message):
        WindowSampler([store], **arguments)


def test_stores_that_cannot_be_drawn_from(
    store, make_store, make_random_episodes, write_store, tmp_path
):
    with pytest.raises(ValueError, match="at least one replay store"):
        WindowSampler([])
    short = make_store("Pong", [3])
    for alone in (short, short.path, str(short.path)):
        with pytest.raises(ValueError, match=r"Expected a list of replay stores, got .*; put"):
            WindowSampler(alone)
    with pytest.raises(ValueError, match=f"none in .*{short.path}"):
        WindowSampler([store, short], split="heldout")
    large = write_store(tmp_path / "large", "Pong", make_random_episodes([3]), screen_size=84)
    with pytest.raises(ValueError, match=r"one frame size, got \[\(8, 8\), \(84, 84\)\]"):
        WindowSampler([store, str(large)])
    with pytest.raises(ValueError, match="Expected a replay store at nowhere"):
        WindowSampler(["nowhere"])


def test_parts_of_a_batch_are_its_windows(store):
    sampler = WindowSampler([store], steps=4, future=2)
    whole = sampler.sample(12, 7)
    parts = [sampler.sample(12, 7, slice(first, first + 4)) for first in (0, 4, 8)]
    for name in set(whole._fields) - {"share_valid"}:
        columns = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(columns, getattr(whole, name))
    assert whole.num_valid == whole.valid.sum() < whole.valid.size
    assert [part.num_valid for part in parts] == pytest.approx([whole.num_valid / 3] * 3)
    assert len({part.valid.sum() for part in parts}) > 1


def test_drawn_rows_are_those_of_the_batch(store, episodes):
    sampler = WindowSampler([store], steps=1)
    batch = sampler.sample(20, 3)
    rows = sampler.drawn_rows(20, 3)
    assert {path for path, _ in rows} == {store.path}
    np.testing.assert_array_equal(store.actions[[row for _, row in rows]], batch.actions[:, 0])
