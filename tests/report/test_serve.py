"""A report is served to this machine alone, and nothing else is."""

import http.client
import threading

import pytest

from kdscope.errors import KDScopeError
from kdscope.report.serve import server_of


@pytest.fixture
def server(tmp_path):
    (tmp_path / "r.html").write_text("<!doctype html>é", encoding="utf-8")
    (tmp_path / "secret.txt").write_text("no")
    with server_of(tmp_path / "r.html") as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def ask(server, path, host=None):
    connection = http.client.HTTPConnection(*server.server_address, timeout=5)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.getheaders()


def test_the_page_and_nothing_else(server):
    assert server.server_address[0] == "127.0.0.1"
    status, body, headers = ask(server, "/")
    assert (status, body) == (200, "<!doctype html>é".encode())
    assert ("Content-Type", "text/html; charset=utf-8") in headers
    assert ask(server, "/r.html")[0] == 200
    for path in ("/secret.txt", "/../secret.txt", "/%2e%2e/secret.txt", "//etc/passwd", "/r.html/"):
        assert ask(server, path)[0] == 404


def test_a_name_that_was_bent_to_this_machine_reads_nothing(server):
    port = server.server_address[1]
    assert ask(server, "/", f"localhost:{port}")[0] == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example"):
        status, body, _ = ask(server, "/", host)
        assert status == 404
        assert b"doctype html>\xc3" not in body


def test_a_port_that_is_taken_is_told(server, tmp_path):
    port = server.server_address[1]
    with pytest.raises(KDScopeError, match=f"port {port}: .*give another --port"):
        server_of(tmp_path / "r.html", port)
