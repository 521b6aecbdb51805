"""What the commands share: numbers of steps."""

import pytest

from mgdt_cli.common import parse_steps


@pytest.mark.parametrize(
    ("text", "steps"),
    [("500000", 500_000), ("1_000", 1000), ("200k", 200_000), ("1.5M", 1_500_000), (" 2m ", 2e6)],
)
def test_parse_steps(text, steps):
    assert parse_steps(text) == steps


@pytest.mark.parametrize("text", ["", "0", "-5", "0.1", "1.5g", "many", "1__0", "m"])
def test_no_number_of_steps(text):
    with pytest.raises(ValueError, match=r"such as 500000, 500k or 1.5m, got"):
        parse_steps(text)
