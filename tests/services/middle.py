"""A service that asks another one for every request. Knows nothing of tracing.

Notes the trace headers that it receives in the file SEEN, for the tests.
"""

import http.client
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NEXT = int(os.environ["NEXT"])
SEEN = os.open(os.environ["SEEN"], os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # One send for head and content: Nagle's algorithm would add 40 ms to each answer.
    wbufsize = -1
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.next = http.client.HTTPConnection("127.0.0.1", NEXT, timeout=20)

    def finish(self):
        self.next.close()
        super().finish()

    def do_GET(self):
        values = self.headers.get_all("traceparent") or []
        os.write(SEEN, f"{self.path} {','.join(values)}\n".encode())
        self.next.request("GET", self.path)
        answer = self.next.getresponse()
        content = b"middle " + answer.read()
        self.send_response(answer.status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128


Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
