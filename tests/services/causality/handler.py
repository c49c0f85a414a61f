"""What the services on http.server have in common: one handler, asked for a pattern and an id."""

from http.server import BaseHTTPRequestHandler


def handler(patterns):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and content in one send.
        wbufsize = -1
        disable_nagle_algorithm = True

        def do_GET(self):
            pattern, _, id = self.path[1:].partition("/")
            if pattern not in patterns or not id.isdigit():
                self.send_error(404)
                return
            patterns[pattern](id)
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *args):
            pass

    return Handler
