"""The hall with its server host, the files everybody reads, and castd on demand."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab.castd import Server, Shelf
from tests.support.lab.clients import SERVER
from tests.support.lab.hall import Hall, sweep
from tests.support.needs import need, needNamespaces

DRAIN = "2 s"
"""How long castd waits at its end for those who may ask for their last answer once more."""

Serve = Callable[..., Server]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever lies here is of the kind C{e2e}, and slow."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("e2e")
            item.add_marker("slow")


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """The files that castd serves."""
    return Shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    """A switch with the host C{server}: 10.77.0.1, a second address 10.77.0.2, and fd77::1."""
    needNamespaces()
    need("ip", "bridge", "setpriv")
    sweep()
    with Hall(tmp_path_factory.mktemp("hall")) as hall:
        hall.host("server", SERVER, "10.77.0.2", "fd77::1")
        yield hall


@pytest.fixture(scope="module")
def serve(hall: Hall, shelf: Shelf) -> Iterator[Serve]:
    """
    Start castd in the server host: C{serve(tftp={"port": 69}, …)} with a transport per keyword.

    It serves the shelf, and takes uploads in three directories named after their policies.  At the end of the module
    it must still be there, leave cleanly, and have met no error it did not expect.
    """
    with contextlib.ExitStack() as life:

        def start(**transports: dict[str, Any]) -> Server:
            uploads = []
            for policy in ("create", "overwrite", "existing"):
                folder = hall.folder / policy
                folder.mkdir(exist_ok=True)
                uploads.append({"directory": {"path": str(folder), "under": policy, "policy": policy}})
            server = Server(
                hall.hosts["server"],
                {
                    "castd": 1,
                    "content": [{"directory": {"path": str(shelf.root)}}],
                    "uploads": uploads,
                    "access": [{"allow": "any"}],
                    "limits": {"per-peer": 4096, "new-per-peer": "10000/s", "drain": DRAIN},
                    "transports": {name.replace("_", "-"): options for name, options in transports.items()},
                },
            )
            life.callback(server.stop)
            return server

        yield start
