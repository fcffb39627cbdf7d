"""Tests that talk to the shop as a browser does: through its port."""

import json
import time
import urllib.request


def ask(url, data=None):
    with urllib.request.urlopen(url, data, timeout=10) as answer:
        return json.load(answer)


def test_search(shop):
    assert ask(f"{shop}/search?for=apple") == ["apple", "apple pie"]


def test_an_order_is_delivered(shop):
    number = ask(f"{shop}/orders", data=b"")["number"]
    deadline = time.monotonic() + 20
    while ask(f"{shop}/orders/{number}")["status"] != "delivered":
        assert time.monotonic() < deadline
        time.sleep(0.1)
