"""A storefront: asks the inventory for its stock. Plain standard library, no tracing."""

import http.client
import http.server
import json
import sys


class Storefront(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        inventory = http.client.HTTPConnection("127.0.0.1", int(sys.argv[2]), timeout=10)
        try:
            inventory.request("GET", "/stock" + self.path)
            stock = json.loads(inventory.getresponse().read())
        finally:
            inventory.close()
        body = json.dumps({"product": self.path, "stock": stock["units"]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Storefront).serve_forever()
