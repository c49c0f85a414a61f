"""Calls the TLS library as often as it can, until a line comes. Knows nothing of tracing."""

import ssl
import sys
import threading

session = ssl.create_default_context().wrap_bio(
    ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost"
)
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
calls = 0
print("busy", flush=True)
while not stop.is_set():
    try:
        session.read(1)
    except ssl.SSLWantReadError:
        calls += 1
print(f"calls {calls}", flush=True)
