"""A service that asks another one for every request. Knows nothing of tracing.

Notes the trace headers that it receives in the file SEEN, for the tests. With TLS, the directory of
a certificate and its key, both its own clients and the service behind it are to be encrypted.
"""

import http.client
import os
import ssl
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NEXT = (os.environ["NEXT_HOST"], int(os.environ["NEXT"]))
TLS = os.environ.get("TLS")
SEEN = os.open(os.environ["SEEN"], os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # One send for head and content: Nagle's algorithm would add 40 ms to each answer.
    wbufsize = -1
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        if TLS:
            trusted = ssl.create_default_context(cafile=f"{TLS}/certificate.pem")
            self.next = http.client.HTTPSConnection(*NEXT, timeout=20, context=trusted)
        else:
            self.next = http.client.HTTPConnection(*NEXT, timeout=20)

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


server = Server((os.environ["HOST"], int(os.environ["PORT"])), Handler)
if TLS:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{TLS}/certificate.pem", f"{TLS}/key.pem")
    # The handshake in the connection's own thread.
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
server.serve_forever()
