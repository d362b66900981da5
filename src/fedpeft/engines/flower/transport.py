"""Whether a SuperLink listens at an address, in the transport that is asked for. Imports nothing of Flower.

Flower itself retries for ever against one that speaks the other transport, and shows a traceback for a wrong authority.
"""

import socket
import ssl
from pathlib import Path

from fedpeft.errors import UserError, printable


def split_address(address: str, key: str) -> tuple[str, int]:
    """Host and port of `host:port`. Raises UserError, which names the key, for anything else."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"{key}: expected host:port, received {printable(address, 100)!r}")
    return host.strip("[]"), int(port)


def require_certificates(certificates: str | None, insecure: bool, prefix: str = "") -> None:
    """Raises UserError where settings, whose keys begin with `prefix`, name no authority and do not ask for plain text.

    Also where the authority's file is not there.
    """
    if certificates is None and not insecure:
        raise UserError(
            f"{prefix}root_certificates is missing: the server's ca.pem, as `fedpeft site init` wrote it; plain text, "
            f"for trials on one machine, must be asked for: {prefix}insecure: true"
        )
    if certificates is not None and not Path(certificates).is_file():
        raise UserError(f"{prefix}root_certificates: no such file: {certificates}")


def check_transport(host: str, port: int, certificates: str | None) -> None:
    """Raises UserError, in one line, where no server is at the address, or not one of this transport and authority."""
    where = f"{host}:{port}"
    try:
        with socket.create_connection((host, port), timeout=10) as connection:
            if certificates is None:
                if not _answers_plainly(connection):
                    raise UserError(f"the server at {where} does not speak plain text: give its root_certificates")
                return
            context = ssl.create_default_context(cafile=certificates)
            with context.wrap_socket(connection, server_hostname=host):
                return
    except ssl.SSLCertVerificationError as error:
        raise UserError(
            f"the certificate of {where} is not signed by {certificates}, or is of another name: {error.verify_message}"
        ) from error
    except ssl.SSLError as error:
        raise UserError(
            f"the server at {where} does not speak TLS ({error.reason}); was it started insecure?"
        ) from error
    except OSError as error:
        raise UserError(
            f"no SuperLink answers at {where} ({error.strerror or error}); start it, or correct the address"
        ) from error


def _answers_plainly(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return connection.recv(5).startswith(b"HTTP/")
    except ConnectionError:  # a TLS server hangs up on what is no handshake
        return False
