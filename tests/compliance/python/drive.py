"""Drive a server that behaves as check_app.py does with python-socketio, and print a JSON line a scenario.

    python -m tests.compliance.python.drive URL
        [--transport websocket|polling|upgrade] [--parser default|msgpack] [SCENARIO ...]

``upgrade`` begins with polling and goes on over WebSocket. Ends with 1 if a scenario failed.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import sys
import time
import traceback
from collections.abc import Iterator

from tests.compliance.python import connecting, ending, events, rooms
from tests.compliance.python.world import TRANSPORTS, Scenario, World

DEADLINE_S = 20.0


def find_scenarios() -> Iterator[tuple[str, Scenario]]:
    """Yield the name and the function of each scenario: what takes a world alone."""
    for module in (connecting, events, rooms, ending):
        for name, function in vars(module).items():
            if inspect.isfunction(function) and [*inspect.signature(function).parameters] == ["world"]:
                yield name.replace("_", "-"), function


async def run(scenario: Scenario, url: str, transport: str, parser: str) -> str | None:
    """Run a scenario; return what went wrong."""
    world = World(url, transport, parser)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await scenario(world)
    except Exception:
        return traceback.format_exc()
    finally:
        await world.end()
    return None


async def drive(options: argparse.Namespace) -> int:
    failed = 0
    for name, scenario in find_scenarios():
        if options.scenarios and name not in options.scenarios:
            continue
        begun = time.perf_counter()
        error = await run(scenario, options.url, options.transport, options.parser)
        failed += error is not None
        took_ms = round((time.perf_counter() - begun) * 1000)
        print(json.dumps({"scenario": name, "error": error, "ms": took_ms}), flush=True)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("scenarios", nargs="*")
    parser.add_argument("--transport", choices=TRANSPORTS, default="websocket")
    parser.add_argument("--parser", choices=("default", "msgpack"), default="default")
    sys.exit(1 if asyncio.run(drive(parser.parse_args())) else 0)


if __name__ == "__main__":
    main()
