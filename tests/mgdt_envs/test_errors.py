"""Errors that a user can mend."""

import importlib

import pytest

from mgdt_envs.errors import MissingExtra, importing


def test_missing_extra_says_what_to_install():
    message = r"^Cards need nowhere: pip install 'mgdt\[plot\]' \(No module named 'nowhere'\)\.$"
    with pytest.raises(MissingExtra, match=message), importing("Cards need nowhere", "plot"):
        importlib.import_module("nowhere")


def test_other_errors_are_left_alone():
    with pytest.raises(ZeroDivisionError), importing("Numbers need sense", "plot"):
        _ = 1 / 0
