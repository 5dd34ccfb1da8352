"""From the settings to the plain options of the parts: the layers below know no settings."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from fastim.guard.bans import BlockList
from fastim.guard.limits import ConnectLimiter, MemberLimiter, MessageLimiter
from fastim.im.options import ImOptions
from fastim.server.front import FrontOptions
from fastim.server.service import ServiceOptions
from fastim.server.settings import HistoryVisibility

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastim.im.session import Session
    from fastim.server.settings import Settings

__all__ = [
    "block_list",
    "connect_limiter",
    "front_options",
    "hub_options",
    "im_options",
    "member_limit",
    "message_limit",
    "service_options",
    "store_options",
]


def _ns(seconds: float) -> int:
    return int(seconds * 1_000_000_000)


def hub_options(settings: Settings) -> dict[str, Any]:
    """Make the keyword arguments of ``Hub``."""
    limits, deflate = settings.limits, settings.deflate
    return {
        "max_message_bytes": limits.max_message_bytes,
        "max_fragments": limits.max_fragments,
        "head_bytes": limits.head_bytes,
        "head_timeout_ns": _ns(limits.head_timeout_s),
        "close_timeout_ns": _ns(limits.close_timeout_s),
        "read_budget_bytes": limits.read_budget_bytes,
        "message_budget": limits.message_budget,
        "tick_messages": limits.tick_messages,
        "outbox_bytes": settings.outbox.standard_bytes,
        "deflate_window_bits": deflate.window_bits,
        "deflate_min_bytes": deflate.min_bytes,
        "deflate_level": deflate.level,
    }


def _outbox_bytes(settings: Settings) -> dict[str, int]:
    outbox = settings.outbox
    return {
        "critical": outbox.critical_bytes,
        "standard": outbox.standard_bytes,
        "degraded": outbox.degraded_bytes,
    }


def service_options(settings: Settings, node: str) -> ServiceOptions:
    """Make the service's options."""
    limits, heartbeat = settings.limits, settings.heartbeat
    return ServiceOptions(
        node=node,
        hello_timeout_ns=_ns(limits.hello_timeout_s),
        heartbeat_interval_ns=_ns(heartbeat.interval_s),
        heartbeat_timeout_ns=_ns(heartbeat.timeout_s),
        max_message_bytes=limits.max_message_bytes,
        messages_per_minute=limits.messages_per_minute,
        close_timeout_s=limits.close_timeout_s,
        leeway_s=settings.auth.leeway_s,
        max_unfinished=limits.unfinished_requests,
        packets_per_second=limits.packets_per_second,
        outbox_bytes=_outbox_bytes(settings),
    )


def front_options(settings: Settings) -> FrontOptions:
    """Make the front's options."""
    return FrontOptions(
        path=settings.server.path,
        allowed_origins=settings.server.allowed_origins,
        token_in_url=settings.auth.token_in_url,
        deflate_window_bits=settings.deflate.window_bits if settings.deflate.enabled else 0,
    )


def connect_limiter(settings: Settings) -> ConnectLimiter:
    """Make the limits of connects."""
    limits = settings.limits
    return ConnectLimiter(limits.connects_per_minute, limits.connects_per_minute_per_address)


def block_list(settings: Settings) -> BlockList:
    """Make the list of the addresses that are shut out."""
    bans = settings.bans
    return BlockList(bans.automatic, bans.refusals_per_minute, _ns(bans.duration_s))


def message_limit(settings: Settings) -> Callable[[Session], int] | None:
    """Make what tells a user's session how many milliseconds it has to wait; None: there is no limit."""
    per_minute = settings.limits.messages_per_minute
    if not per_minute:
        return None
    attempt = MessageLimiter(per_minute).attempt

    def wait_ms(session: Session) -> int:
        return attempt(session.user_id, time.monotonic_ns())

    return wait_ms


def member_limit(settings: Settings) -> Callable[[Session, int], int] | None:
    """Make what tells how long, in milliseconds, a session has to wait to add so many members."""
    per_minute = settings.limits.members_per_minute
    if not per_minute:
        return None
    attempt = MemberLimiter(per_minute).attempt

    def wait_ms(session: Session, count: int) -> int:
        return attempt(session.user_id, count, time.monotonic_ns())

    return wait_ms


def im_options(settings: Settings) -> ImOptions:
    """Make the domain's options."""
    messaging, presence, session = settings.messaging, settings.presence, settings.session
    return ImOptions(
        dev_login=settings.dev_login,
        presence_shared_only=presence.shared_only,
        history_from_joining=messaging.members_see is HistoryVisibility.JOINED,
        allow_leave=messaging.members_may_leave,
        max_members=settings.limits.conversation_members,
        offline_grace_ms=int(presence.grace_s * 1000),
        typing_timeout_ms=int(messaging.typing_timeout_s * 1000),
        window_ms=messaging.window_ms,
        session_life_s=int(session.life_s),
        max_sessions=session.max_count,
        ring_bytes=messaging.ring_bytes,
        ring_total_bytes=messaging.rings_total_bytes,
        replay_messages=messaging.resume_messages,
        outbox_bytes=_outbox_bytes(settings),
        page_bytes=messaging.history_bytes,
        delivered_members=messaging.delivered_members,
        read_members=messaging.read_members,
        ack_timeout_ms=int(messaging.ack_timeout_s * 1000),
        ack_retries=messaging.ack_retries,
        max_writes=settings.store.max_queued,
        limit_message=message_limit(settings),
        limit_members=member_limit(settings),
    )


def store_options(settings: Settings) -> dict[str, Any]:
    """Make the keyword arguments of ``SQLiteStore``."""
    store = settings.store
    return {
        "synchronous": store.synchronous.value,
        "group_commit": store.max_batch > 1,
        "max_batch": store.max_batch,
        "busy_timeout_ms": int(store.busy_timeout_s * 1000),
        "client_id_life_s": store.client_id_life_s,
        "wal_limit_bytes": store.wal_max_bytes,
    }
