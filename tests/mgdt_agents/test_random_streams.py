"""Random streams of rows: the published generator, and independence of the company."""

import numpy as np
import pytest
import torch

from mgdt_agents.random_streams import RowStreams, explored, philox, sample
from mgdt_envs.errors import InvalidArgument


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        # Random123's known answers of philox4x32-10 (Salmon et al. 2011).
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (
            "ffffffff ffffffff ffffffff ffffffff",
            "ffffffff ffffffff",
            "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers(counter: str, key: str, expected: str) -> None:
    low, high = words(key)
    counters = np.array([words(counter), [1, 2, 3, 4]], np.uint64)
    assert philox(counters, low + (high << 32))[0].tolist() == words(expected)


def draw(seed: int, streams: list[int], steps: list[int], numbers: int = 2) -> np.ndarray:
    rows = RowStreams(seed, np.array(streams), np.array(steps))
    return np.stack([rows.uniform() for _ in range(numbers)], 1)


def test_a_row_draws_the_same_in_any_company() -> None:
    together = draw(3, [5, 2**40, 7], [0, 9, 1])
    for row, (stream, step) in enumerate([(5, 0), (2**40, 9), (7, 1)]):
        np.testing.assert_array_equal(together[row], draw(3, [stream], [step])[0])


def test_seed_stream_step_and_number_all_count() -> None:
    drawn = [
        draw(seed, [stream], [step])
        for seed in (0, 1, 2**63, -1)
        for stream in (0, 1, 2**40)
        for step in (0, 1)
    ]
    assert len(np.unique(drawn)) == 4 * 3 * 2 * 2


def test_numbers_are_uniform() -> None:
    drawn = draw(0, list(range(2000)), [4] * 2000, numbers=20)
    assert 0 <= drawn.min() < 1e-3 < 1 - 1e-3 < drawn.max() < 1
    # 40,000 in ten bins: the standard deviation of a share is 0.0015.
    np.testing.assert_allclose(np.histogram(drawn, 10, (0, 1))[0] / drawn.size, 0.1, atol=0.006)
    # Neighboring streams, and numbers that follow one another.
    assert abs(np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(drawn[:, :-1].ravel(), drawn[:, 1:].ravel())[0, 1]) < 0.02


def test_sample_follows_the_logits() -> None:
    draws = 30_000
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]]).expand(draws, -1)
    drawn = sample(logits, RowStreams(0, np.arange(draws), np.zeros(draws, int)))
    found = np.bincount(drawn.numpy(), minlength=4) / draws
    np.testing.assert_allclose(found, [0, 0.269, 0.731, 0], atol=0.015)
    assert sample(torch.tensor([[0.0, 1.0, -torch.inf]]), None).tolist() == [1]


def test_sample_draws_each_row_from_its_stream() -> None:
    rows = torch.randn(1, 18, generator=torch.Generator().manual_seed(0)).expand(50, -1)
    together = sample(rows, RowStreams(0, np.arange(50), np.zeros(50, int)))
    alone = [sample(rows[:1], RowStreams(0, np.array([row]), np.array([0]))) for row in range(50)]
    assert torch.equal(together, torch.cat(alone))
    assert len(together.unique()) > 5


@pytest.mark.parametrize("wrong", [[0.0, torch.nan], [torch.inf, 0.0], [-torch.inf, -torch.inf]])
@pytest.mark.parametrize("streams", [None, RowStreams(0, np.arange(2), np.arange(2))])
def test_logits_that_say_nothing_are_refused(
    wrong: list[float], streams: RowStreams | None
) -> None:
    with pytest.raises(InvalidArgument, match=r"finite logits .*, got \[.*inf|nan.*\] in row 1"):
        sample(torch.tensor([[0.0, -torch.inf], wrong]), streams)


def test_a_share_of_the_actions_is_drawn_of_the_allowed_ones():
    rows = RowStreams(0, np.arange(9000), np.zeros(9000, np.int64))
    allowed = np.tile([False, True, False, True], (9000, 1))
    found = explored(np.full(9000, 3), allowed, 0.5, rows)
    shares = np.bincount(found, minlength=4) / 9000
    np.testing.assert_allclose(shares, [0, 0.25, 0, 0.75], atol=0.02)
