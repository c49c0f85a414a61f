"""CPython with gevent: pywsgi server, requests by monkey patching.

Typical: one thread, a greenlet per connection; blocking calls switch to the
hub, which waits with epoll (libev). Parallel calls and background work are
greenlets too.
"""

from gevent import monkey

monkey.patch_all()

import os
import socket
import time

import gevent
import requests
from gevent.pywsgi import WSGIServer
from requests.adapters import HTTPAdapter

NEXT = "http://" + os.environ["NEXT"]

session = requests.Session()
session.trust_env = False
session.mount("http://", HTTPAdapter(pool_maxsize=512))


def get(path):
    return session.get(NEXT + path, timeout=20).status_code


def one(id):
    get(f"/one/{id}/0")


def sequence(id):
    for i in range(3):
        get(f"/sequence/{id}/{i}")


def parallel(id):
    calls = [gevent.spawn(get, f"/parallel/{id}/{i}") for i in range(3)]
    gevent.joinall(calls, raise_error=True)


def timer(id):
    time.sleep(0.02)
    get(f"/timer/{id}/0")


def background(id):
    gevent.spawn_later(0.03, get, f"/background/{id}/0")


def retry(id):
    if get(f"/retry/{id}/0") == 503:
        get(f"/retry/{id}/1")


PATTERNS = {f.__name__: f for f in (one, sequence, parallel, timer, background, retry)}


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
