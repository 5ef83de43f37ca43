"""A key that a server repeats inside a good reply goes no further."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from mashbill.teachers.endpoint.settings import Settings
from mashbill.teachers.endpoint.transport import Redactor, Transport

pytest.importorskip("openai", reason="needs the extra `http`: pip install 'mashbill[http]'")

KEY = "sk-secret-0123456789"


@pytest.mark.parametrize(
    "told",
    [
        "bad key sk/secret+0123456789",
        "/v1?key=sk%2Fsecret%2B0123456789&x",
        '{"torn": "' + "".join(f"\\u{ord(letter):04x}" for letter in "sk/secret+0123456789"),
        "cut short: sk/secret+01234",
    ],
)
def test_a_key_is_taken_out_however_it_is_spelled(told: str) -> None:
    cleared = Redactor("sk/secret+0123456789")(told)
    assert "[key]" in cleared
    assert "0123" not in cleared
    assert "0030" not in cleared
    assert Redactor("sk/secret+0123456789")("no key: sk-other") == "no key: sk-other"


class Parrot(BaseHTTPRequestHandler):
    """Answers with the headers that it was sent, as a value, as a name, and escaped."""

    def do_GET(self) -> None:
        sent = self.headers["Authorization"]
        escaped = "".join(f"\\u{ord(letter):04x}" for letter in sent)
        content = f'{{"data": [{{"logprob": {json.dumps(sent)}}}], {json.dumps(sent)}: 1, "x": "{escaped}"}}'.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_what_is_read_from_a_reply_does_not_hold_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_KEY", KEY)
    server = HTTPServer(("127.0.0.1", 0), Parrot)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        transport = Transport(
            Settings(url=f"http://127.0.0.1:{server.server_port}/v1", model="m", key_variable="FAR_KEY")
        )
        found = transport.get("/models")
        transport.close()
    finally:
        server.shutdown()
        server.server_close()
    assert found == {"data": [{"logprob": "Bearer [key]"}], "Bearer [key]": 1, "x": "Bearer [key]"}
