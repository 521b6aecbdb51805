"""The connection to a Ray cluster, which several commands have."""

import logging
import socket

from mgdt_envs.errors import InvalidArgument, importing

TIMEOUT = 5.0  # seconds, for an answer


def connect(address: str, *, shows_output: bool = True) -> None:
    """Connect this process to the Ray cluster at `address`, or start one for "local".

    Args:
        address: as Ray has it.
        shows_output: print here what the cluster's processes print.

    Raises:
        MissingExtra: without Ray.
        ValueError: if no cluster answers there within seconds, or one of another version.
    """
    with importing("--ray needs Ray", "ray"):
        import ray
    if address not in ("auto", "local"):
        check_answers(address)
    try:
        ray.init(
            address=address,
            include_dashboard=False,
            log_to_driver=shows_output,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InvalidArgument(f"No Ray cluster can be used at {address!r}: {error}") from error


def check_answers(address: str) -> None:
    """Raise `InvalidArgument` unless something listens at HOST:PORT or ray://HOST:PORT."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise InvalidArgument(
            "Expected the address of a Ray cluster, such as auto, local, HOST:6379 or "
            f"ray://HOST:10001, got {address!r}"
        )
    try:
        socket.create_connection((host, int(port)), TIMEOUT).close()
    except (OSError, OverflowError) as error:
        raise InvalidArgument(
            f"No Ray cluster answers at {address!r} ({error}). `ray start --head` starts one and "
            "says its address; --ray auto takes the one of this machine."
        ) from error
