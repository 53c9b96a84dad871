"""HTTP services of a process: applications on a port, and health and metrics of a stage that has no address."""

import errno
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from lmt2.errors import ConfigError

CLOSING_SECONDS = 5  # what answers in hand are given at the end


def listen(host: str, port: int, key: str) -> socket.socket:
    """A listening socket; `key` is the setting that the port comes from.

    Taken before models are loaded, so that a port in use is told at once and nobody else can take it meanwhile.

    Raises:
        ConfigError: the port is in use, or the host isn't of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        raise _refusal(host, port, key, error) from error


def address(listener: socket.socket) -> str:
    """The address under which this machine reaches a listening socket."""
    host, port = listener.getsockname()[:2]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{reachable}:{port}"


class Application:
    """An ASGI application on a listening socket."""

    def __init__(self, app: Any, listener: socket.socket) -> None:
        import uvicorn  # an extra that stages without an address do without

        self._listener = listener
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                ws="none",
                lifespan="on",
                timeout_graceful_shutdown=CLOSING_SECONDS,
            )
        )

    def run(self) -> None:
        """Answer until `stop`."""
        self._server.run(sockets=[self._listener])

    def stop(self) -> None:
        """Finish the answers in hand and end."""
        self._server.should_exit = True


class Health:
    """Answers /healthz and /metrics on all interfaces, as long as the process lives."""

    def __init__(self, port: int) -> None:
        try:
            self._server = ThreadingHTTPServer(("", port), _HealthHandler)
        except OSError as error:
            raise _refusal("0.0.0.0", port, "telemetry.metrics_port", error) from error  # noqa: S104

    @property
    def port(self) -> int:
        """The port in use, also where 0 was asked for."""
        return int(self._server.server_address[1])

    def run(self) -> None:
        """Answer until `stop`."""
        self._server.serve_forever(poll_interval=0.1)
        self._server.server_close()

    def stop(self) -> None:
        """End."""
        self._server.shutdown()


class _HealthHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        match self.path:
            case "/healthz":
                self._reply(200, "application/json", b'{"status": "ok"}')
            case "/metrics":
                self._reply(200, CONTENT_TYPE_LATEST, generate_latest())
            case _:
                self._reply(404, "text/plain", b"there are /healthz and /metrics\n")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class calls it so)
        """Probes come every few seconds: no log."""

    def _reply(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _refusal(host: str, port: int, key: str, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(f"port {port} on {host or 'this machine'} is in use: stop what uses it, or set {key}")
    return ConfigError(f"{key}: can't listen on {host}:{port}: {error.strerror}")
