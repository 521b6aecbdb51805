"""The address of a Ray cluster: where none answers, and what is no address."""

import socket

import pytest

from mgdt_cli.cluster import connect
from mgdt_envs.errors import InvalidArgument

pytest.importorskip("ray")


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_nobody_answers(form):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and does not listen
        address = form.format(held.getsockname()[1])
        with pytest.raises(InvalidArgument, match=f"No Ray cluster answers at '{address}'"):
            connect(address)


@pytest.mark.parametrize("address", ["pong", "ray://host", "host:port"])
def test_no_address(address):
    with pytest.raises(
        InvalidArgument, match="Expected the address of a Ray cluster, such as auto"
    ):
        connect(address)
