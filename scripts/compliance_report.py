"""The Autobahn suite's input and output: write its specification, judge its report."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

AGENT = "fastim"
STRICT = frozenset({"OK", "INFORMATIONAL"})
# Results that are right though not strict, by the beginning of the case's number; anything else fails.
SMALL_WINDOW = (
    "the client offers compression with a window of 9 bits or not at all, and the server declines: "
    "one window of 12 bits serves every connection"
)
EXPLAINED: dict[tuple[str, str], str] = {
    ("13.3.", "UNIMPLEMENTED"): SMALL_WINDOW,
    ("13.5.", "UNIMPLEMENTED"): SMALL_WINDOW,
}


def specification(port: int, reports: Path, cases: list[str]) -> str:
    """Return the fuzzing client's specification as JSON."""
    return json.dumps(
        {
            "outdir": str(reports),
            "servers": [{"agent": AGENT, "url": f"ws://127.0.0.1:{port}"}],
            "cases": cases or ["*"],
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
    )


def explanation(case: str, behavior: str) -> str | None:
    """Return why a result that is not strict is right, or None if nothing explains it."""
    for (prefix, explained), reason in EXPLAINED.items():
        if case.startswith(prefix) and behavior == explained:
            return reason
    return None


def judge(reports: Path) -> int:
    """Print a summary and each result that is not strict; return the exit status."""
    results: dict[str, dict[str, str]] = json.loads((reports / "index.json").read_text())[AGENT]
    failed = 0
    for case, result in sorted(results.items(), key=lambda item: [int(part) for part in item[0].split(".")]):
        verdicts = {result["behavior"], result["behaviorClose"]}
        if verdicts <= STRICT:
            continue
        reason = explanation(case, result["behavior"])
        failed += reason is None
        print(f"{case}: {result['behavior']}, close {result['behaviorClose']}: {reason or 'NOT EXPLAINED'}")
    counts = Counter(result["behavior"] for result in results.values())
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    return 1 if failed or not results else 0


if __name__ == "__main__":
    if sys.argv[1] == "spec":
        print(specification(int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]))
    else:
        sys.exit(judge(Path(sys.argv[2])))
