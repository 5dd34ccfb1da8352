"""When the hub writes: at once while the loop has time to spare, later and together while it has not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from fastim._core.hub import Hub

__all__ = ["Bridge", "FlushWindow", "Flusher"]

NS_PER_MS: Final = 1_000_000
SAMPLE_NS: Final = 10 * NS_PER_MS  # over which the loop's load is measured, at least
IDLE_NS: Final = 20 * NS_PER_MS  # without work: the load that was measured before says nothing any more
FIRST_NS: Final = NS_PER_MS  # what a window begins with: the loop's timers are no finer
MERGE_NS: Final = 2 * NS_PER_MS  # what a loaded loop waits at most; one that is behind waits longer
# Shares of the time that the loop was at work, in percent.
QUIET: Final = 50
LOADED: Final = 75
BEHIND: Final = 95


class Bridge(Protocol):
    """What carries a connection that has no socket of the hub's."""

    def pump(self) -> None:
        """Take what the hub has for it, or learn that it has come to its end."""


class FlushWindow:
    """How long a flush may wait for more to come, by how much of its time the loop works.

    Closed below ``LOADED``; 1 to 2 ms there, as that is what brings the answers of one round together; above
    ``BEHIND`` it doubles with each look. The wait leaves time, so the share falls and the window with it:
    it settles where the loop just keeps up.

    Args:
        max_ns: The longest window; 0: it never opens.
        degraded_factor: How many times as long the degraded tier waits.
    """

    __slots__ = ("_busy_ns", "_degraded_factor", "_max_ns", "_since_ns", "_until_ns", "_window_ns", "share")

    def __init__(self, max_ns: int, degraded_factor: int) -> None:
        self._max_ns = max_ns
        self._degraded_factor = degraded_factor
        self._window_ns = 0
        self._busy_ns = 0
        self._since_ns = 0
        self._until_ns = 0
        self.share = 0  # of the last look, percent

    def worked(self, begin_ns: int, end_ns: int) -> None:
        """Count a stretch of work; what overlaps with the one before counts once."""
        if begin_ns - self._until_ns > IDLE_NS:
            self._rest(begin_ns)
        elif begin_ns < self._until_ns:
            begin_ns = self._until_ns
        if end_ns > begin_ns:
            self._busy_ns += end_ns - begin_ns
            self._until_ns = end_ns
        elapsed_ns = end_ns - self._since_ns
        if elapsed_ns >= SAMPLE_NS and elapsed_ns >= 2 * self._window_ns:
            self.share = 100 * self._busy_ns // elapsed_ns
            self._since_ns = end_ns
            self._busy_ns = 0
            self._window_ns = min(self._max_ns, self._next())

    def windows_ns(self, now_ns: int) -> tuple[int, int]:
        """The windows that hold now: of the critical and standard tiers, and of the degraded one."""
        if self._window_ns and now_ns - self._until_ns > IDLE_NS:
            self._rest(now_ns)
        return self._window_ns, self._window_ns * self._degraded_factor

    def _next(self) -> int:
        window_ns = self._window_ns
        if self.share >= BEHIND:
            return max(FIRST_NS, 2 * window_ns)
        if window_ns > MERGE_NS:
            return window_ns // 2
        if self.share >= LOADED:
            return max(FIRST_NS, window_ns)
        if self.share >= QUIET:
            return window_ns
        return window_ns // 2 if window_ns > FIRST_NS else 0

    def _rest(self, now_ns: int) -> None:
        self._window_ns = self._busy_ns = self.share = 0
        self._since_ns = self._until_ns = now_ns


class Flusher:
    """Calls ``Hub.flush`` when something is due, once for all that came together.

    **Thread**: the loop's.

    Args:
        loop: The running loop.
        window: How long a flush may wait.
        bridges: The connections of the fed driver, by handle, whose transports take what was flushed.
        poll_soon: Asks for a poll.
        clock_ns: Monotonic time, nanoseconds.

    Attributes:
        hub: Set once, by the owner, which makes the hub with ``on_dirty``.
        polling: Set while a poll is served: what comes of it is flushed at its end.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        window: FlushWindow,
        bridges: Mapping[int, Bridge],
        poll_soon: Callable[[], None],
        clock_ns: Callable[[], int],
    ) -> None:
        self.hub: Hub
        self.polling = False
        self._loop = loop
        self._window = window
        self._bridges = bridges
        self._poll_soon = poll_soon
        self._clock_ns = clock_ns
        self._dirty = False
        self._dirty_ns = 0
        self._due_ns = 0  # when what was left waiting is due; 0: nothing is
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0  # when it comes
        self._stopped = False  # what was scheduled before finds the hub shut down
        self._waited_count = 0

    def on_dirty(self) -> None:
        """The hub has something to write, or to report."""
        self._dirty = True
        if not self.polling:
            self._dirty_ns = self._clock_ns()
            self._loop.call_soon(self._flush_soon)

    def after_poll(self, begin_ns: int) -> None:
        """A poll that began then was served: write what is due."""
        if self._dirty or self._due_ns:
            self._flush_due(self._clock_ns())
        self._window.worked(begin_ns, self._clock_ns())

    def flush(self) -> None:
        """Write all that waits, whatever the window."""
        self._flush(self._clock_ns(), 0, 0)

    def stop(self) -> None:
        """Write no more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def stats(self) -> dict[str, int]:
        """What ``/metrics`` tells."""
        window_ns, _ = self._window.windows_ns(self._clock_ns())
        return {
            "window_us": window_ns // 1000,
            "busy_percent": self._window.share,
            "waited_total": self._waited_count,
        }

    def _flush_soon(self) -> None:
        if self._stopped or not (self._dirty or self._due_ns):
            return
        # What made it dirty runs since then, as this was the loop's next turn.
        begin_ns = self._dirty_ns
        self._flush_due(self._clock_ns())
        self._window.worked(begin_ns, self._clock_ns())

    def _timeout(self) -> None:
        self._timer = None
        if self._due_ns and not self._stopped:
            begin_ns = self._clock_ns()
            self._flush_due(begin_ns)
            self._window.worked(begin_ns, self._clock_ns())

    def _flush_due(self, now_ns: int) -> None:
        if self._dirty or now_ns >= self._due_ns:
            self._flush(now_ns, *self._window.windows_ns(now_ns))
        else:
            self._wait(now_ns)

    def _flush(self, now_ns: int, window_ns: int, degraded_window_ns: int) -> None:
        hub = self.hub
        self._dirty = False
        rest_ns = hub.flush(now_ns, window_ns, degraded_window_ns)
        if self._bridges:
            for handle in hub.fed_ready():
                bridge = self._bridges.get(handle)
                if bridge is not None:
                    bridge.pump()
        if hub.pending:
            self._poll_soon()
        if rest_ns < 0:
            self._due_ns = 0  # a timer that runs finds nothing
            return
        self._due_ns = now_ns + rest_ns
        if rest_ns:
            self._waited_count += 1
            self._wait(now_ns)
        else:
            self._dirty_ns = self._clock_ns()
            self._loop.call_soon(self._flush_soon)  # more than a flush writes: polls come between

    def _wait(self, now_ns: int) -> None:
        """Look again when something is due; a timer that comes sooner does, too."""
        at_ns = max(self._due_ns, now_ns + FIRST_NS)
        if self._timer is not None:
            if self._timer_ns <= at_ns:
                return
            self._timer.cancel()  # set for what may wait longer
        self._timer_ns = at_ns
        self._timer = self._loop.call_later((at_ns - now_ns) / 1_000_000_000, self._timeout)
