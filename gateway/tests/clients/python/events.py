"""Reads an event stream with httpx-sse, and prints each event of its parser as one line of JSON.

Reconnects with the id of the last event, as the documentation of httpx-sse describes.
"""

import json
import sys
import time

import httpx
from httpx_sse import connect_sse

last_id, retry = "", 100
with httpx.Client(timeout=30) as client:
    while True:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        try:
            with connect_sse(client, "GET", sys.argv[1], headers=headers) as source:
                for event in source.iter_sse():
                    last_id, retry = event.id, event.retry or retry
                    print(json.dumps({"event": event.event, "data": event.data, "id": event.id}), flush=True)
        except httpx.TransportError:
            pass
        time.sleep(retry / 1000)
