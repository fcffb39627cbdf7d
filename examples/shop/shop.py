"""A small shop: it finds things, and it delivers orders, which takes a while."""

import time

from flask import Flask, request

PORT = 8000
DELIVERY = 3.0  # seconds

GOODS = ["apple", "apple pie", "pear"]

app = Flask(__name__)
orders: list[float] = []


@app.get("/search")
def search():
    return [good for good in GOODS if request.args["for"] in good]


@app.post("/orders")
def order():
    orders.append(time.monotonic())
    return {"number": len(orders)}


@app.get("/orders/<int:number>")
def status(number):
    delivered = time.monotonic() - orders[number - 1] >= DELIVERY
    return {"status": "delivered" if delivered else "on its way"}


if __name__ == "__main__":
    app.run(port=PORT)
