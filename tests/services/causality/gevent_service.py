"""CPython with gevent: pywsgi server, requests by monkey patching.

Typical: one thread, a greenlet per connection; blocking calls switch to the
hub, which waits with epoll (libev). Parallel calls and background work are
greenlets too.
"""

from gevent import monkey

monkey.patch_all()

import os
import socket

import gevent
from gevent.pywsgi import WSGIServer

from calls import get, patterns


def parallel(id):
    calls = [gevent.spawn(get, f"/parallel/{id}/{i}") for i in range(3)]
    gevent.joinall(calls, raise_error=True)


def background(id):
    gevent.spawn_later(0.03, get, f"/background/{id}/0")


PATTERNS = patterns(parallel, background)


def app(environ, start_response):
    pattern, _, id = environ["PATH_INFO"][1:].partition("/")
    if pattern in PATTERNS and id.isdigit():
        PATTERNS[pattern](id)
        status, content = "200 OK", b"ok"
    else:
        status, content = "404 Not Found", b"not found"
    head = [("Content-Type", "text/plain"), ("Content-Length", str(len(content)))]
    start_response(status, head)
    return [content]


address = ("127.0.0.1", int(os.environ["PORT"]))
server = WSGIServer(address, app, backlog=512, log=None)
server.init_socket()
# Head and content go out in two sends: without this, Nagle's algorithm delays the second.
server.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
server.serve_forever()
