"""The compiled core: what is done per packet and per recipient.

No module in here knows asyncio, logging, the clock, the environment or a word of the service:
time comes in as ``now_ns`` and everything else as plain values.
"""
