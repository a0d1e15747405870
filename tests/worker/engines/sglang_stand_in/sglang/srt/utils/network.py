"""Sockets."""

from typing import Any

import zmq


def get_zmq_socket(context: zmq.Context[Any], socket_type: int, endpoint: str, bind: bool = True) -> Any:
    """Create a socket."""
    socket = context.socket(socket_type)
    if bind:
        socket.bind(endpoint)
    else:
        socket.connect(endpoint)
    return socket
