"""Where the server listens: on its own machine only, unless the settings say otherwise.

`monailabel start_server` listens on all addresses by default. uvicorn loads the app first and opens
its socket afterwards, with what its configuration says then: nothing is ever open to the network.
"""

from __future__ import annotations

import gc
import logging

import uvicorn

from pasta.settings import LOOPBACK, is_loopback

_log = logging.getLogger(__name__)


def keep_inside(*, network: bool) -> int:
    """Turn the address to loopback, unless other machines may be served.

    A server that is started in another way (a socket that is open already) is not found here; the
    checks of every request look at the address that was connected to as well.

    Args:
        network: whether other machines may be served.

    Returns:
        The port; 0 if no server was found.
    """
    # uvicorn hands its configuration to nobody; there is one, as more workers are refused
    found = [each for each in gc.get_objects() if isinstance(each, uvicorn.Config)]
    for config in found:
        if not network and not config.uds and not is_loopback(config.host):
            _log.warning(
                "listening on %s instead of %s: set server.network to serve other machines",
                LOOPBACK,
                config.host,
            )
            config.host = LOOPBACK
    return next((config.port for config in found), 0)
