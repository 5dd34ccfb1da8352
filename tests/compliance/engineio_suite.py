"""An Engine.IO echo server for conformance suites.

    python tests/compliance/engineio_suite.py PORT

Bare Engine.IO at /engine.io/, with short pings: each message goes back as it came, text as text and bytes as
bytes. Port 0 picks one; the first line of standard output says which.
"""

from __future__ import annotations

import argparse

from fastim import EngineConnection, FastIM

app = FastIM()


@app.engineio("/engine.io/")
def echo(connection: EngineConnection, data: str | bytes) -> None:
    connection.send(data)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("port", type=int)
    arguments = parser.parse_args()
    app.run(
        port=arguments.port,
        engineio={"ping_interval_s": 0.3, "ping_timeout_s": 0.2},
        limits={
            "max_message_bytes": 1_000_000,
            "connects_per_minute_per_address": 0,
            "packets_per_second": 0,
        },
    )


if __name__ == "__main__":
    main()
