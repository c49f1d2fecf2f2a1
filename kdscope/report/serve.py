"""Show a report in a browser: one file, to this machine alone."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from kdscope.errors import KDScopeError

HOST = "127.0.0.1"


def server_of(path: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server, not yet running, that answers `/` with the file and everything else with 404.

    It listens on 127.0.0.1 alone, and answers only requests that call it by a name of this machine: a page from
    elsewhere, whose name was bent to 127.0.0.1, reads nothing.

    Args:
        port: 0 for any that is free.

    Raises:
        KDScopeError: a port that is taken, or that this user may not have.
    """
    page = path.read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
            if self.path not in ("/", f"/{path.name}") or host not in (HOST, "localhost"):
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, format: str, *args: object) -> None:
            pass  # one line says where the report is; requests are no news

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        why = error.strerror or error
        raise KDScopeError(f"port {port}: {why}; give another --port, or none for any that is free") from None


def serve(path: Path, port: int = 0, say: Callable[[str], object] = print) -> None:
    """Serve until Ctrl-C."""
    with server_of(path, port) as server:
        say(f"http://{HOST}:{server.server_address[1]}/  (Ctrl-C stops it)")
        worker = threading.Thread(target=server.serve_forever, daemon=True)
        worker.start()
        try:
            worker.join()
        except KeyboardInterrupt:
            server.shutdown()
