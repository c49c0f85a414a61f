"""An HTTP/1.1 service that asks a gRPC service for every request. Knows nothing of tracing.

A thread for each connection; all share one channel. The path is the method.
"""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc

channel = grpc.insecure_channel(f"127.0.0.1:{os.environ['NEXT']}")
SEEN = os.open(os.environ["SEEN"], os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and content in one send.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self):
        values = self.headers.get_all("traceparent") or []
        os.write(SEEN, f"{self.path} {','.join(values)}\n".encode())
        content = b"front " + channel.unary_unary(self.path)(b"", timeout=20)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128


Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
