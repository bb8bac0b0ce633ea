#!/usr/bin/env python3
"""A payment service that does the work of a stage. Python's standard library, nothing else.

    export PAYMENT_SECRET="whsec_$(openssl rand -base64 32)"
    python3 examples/payment_service.py --port 9100

and in another terminal, with the same PAYMENT_SECRET:

    ordering all --set stages.processing.handler=http \\
        --set stages.processing.url=http://127.0.0.1:9100/charge \\
        --set stages.processing.signing_secret="$PAYMENT_SECRET"

It shows the three things such a service owes its caller:

- It believes a call only if the signature is right (https://www.standardwebhooks.com) and the call is not old.
- It does its effect once for each key: a call comes again after a crash or a lost reply, with the same key.
- It says what came of it: done, never (422 with the reason), or later (503 with Retry-After).

An order with `"metadata": {"card": "declined"}` is declined; with `"metadata": {"card": "busy"}` the first call is asked to
come again a second later. Every other order is charged.
"""

import argparse
import base64
import binascii
import hashlib
import hmac
import json
import os
import sqlite3
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MAX_AGE_SECONDS = 300
MAX_BODY_BYTES = 1 << 20


class Payments:
    """What was charged, by key. SQLite, so that it is known after a restart too."""

    def __init__(self, path):
        self.lock = threading.Lock()
        self.database = sqlite3.connect(path, check_same_thread=False)
        self.database.execute(
            "CREATE TABLE IF NOT EXISTS payments (number INTEGER PRIMARY KEY, key TEXT UNIQUE, amount TEXT, currency TEXT)"
        )

    def charge(self, key, amount, currency):
        """Charges once for a key, however often it is asked; the number of the payment."""
        with self.lock, self.database:
            self.database.execute(
                "INSERT INTO payments (key, amount, currency) VALUES (?, ?, ?) ON CONFLICT (key) DO NOTHING",
                (key, amount, currency),
            )
            return self.database.execute("SELECT number FROM payments WHERE key = ?", (key,)).fetchone()[0]


def is_signed(secrets, headers, body):
    """Whether one of the secrets has signed this body, not long ago."""
    call, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not timestamp.isascii() or not timestamp.isdigit() or abs(time.time() - int(timestamp)) > MAX_AGE_SECONDS:
        return False
    signed = f"{call}.{timestamp}.".encode() + body
    given = [part[3:].encode() for part in headers.get("webhook-signature", "").split(" ") if part.startswith("v1,")]
    right = [base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()) for secret in secrets]
    return any(hmac.compare_digest(one, other) for one in given for other in right)


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # A caller that sends less than it announced is not waited for.
    timeout = 10

    def do_POST(self):
        length = self.headers.get("content-length", "")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            return self.answer(400, {"detail": "no length, or too long"})
        body = self.rfile.read(int(length))
        if not is_signed(self.server.secrets, self.headers, body):
            # A status the caller takes for "later": a wrong secret is put right by a person, and must cost no order.
            return self.answer(503, {"detail": "not signed with a secret of this service"}, {"Retry-After": "5"})
        call = json.loads(body)
        key, order = call["key"], call["order"]
        card = (order["metadata"] or {}).get("card")
        if card == "declined":
            return self.answer(422, {"title": "Declined", "detail": "the card was declined"})
        if card == "busy" and call["attempt"] == 1:
            return self.answer(503, {"detail": "the bank is busy"}, {"Retry-After": "1"})
        number = self.server.payments.charge(key, order["total"], order["currency"])
        note = f"charged {order['total']} {order['currency']}"
        return self.answer(200, {"note": note, "result": {"payment": number}})

    def answer(self, status, document, headers=None):
        body = json.dumps(document).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json" if status < 400 else "application/problem+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        if not self.server.quiet:
            super().log_message(format, *args)


def read_secrets(text):
    """The keys of `whsec_…` secrets, several separated by spaces: the old one too while they are being replaced."""
    try:
        keys = [base64.b64decode(one.removeprefix("whsec_") + "==") for one in text.split()]
    except binascii.Error:
        keys = []
    if not keys or not all(keys):
        sys.exit("PAYMENT_SECRET must be set to the signing secret: whsec_ and base64")
    return keys


def main():
    arguments = argparse.ArgumentParser(description="A payment service that ordering calls.")
    arguments.add_argument("--port", type=int, default=9100, help="0 takes a free one")
    arguments.add_argument("--database", default=":memory:", help="a file, to know after a restart what was charged")
    arguments.add_argument("--quiet", action="store_true", help="do not log every call")
    given = arguments.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", given.port), Service)
    server.daemon_threads = True
    server.secrets = read_secrets(os.environ.get("PAYMENT_SECRET", ""))
    server.payments = Payments(given.database)
    server.quiet = given.quiet
    print(f"listening on http://127.0.0.1:{server.server_address[1]}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
