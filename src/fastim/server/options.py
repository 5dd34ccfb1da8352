"""From the settings to the plain options of the parts: the layers below know no settings."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from fastim._core.hub import Encoding
from fastim.guard.admission import Admission, AutoBans
from fastim.guard.blocklist import BlockList
from fastim.guard.limits import ConnectLimiter, MemberLimiter
from fastim.guard.pressure import PressurePolicy
from fastim.guard.proxies import TrustedProxies
from fastim.guard.tiers import TIERS, TierPolicy
from fastim.guard.tokens import Tier
from fastim.im.options import ImOptions, StormOptions
from fastim.server.engineio.options import EngineOptions
from fastim.server.front.front import FrontOptions
from fastim.server.front.handover import HandOverOptions
from fastim.server.heartbeat import HeartbeatOptions
from fastim.server.process.drain import DrainOptions
from fastim.server.process.memory import memory_limit_bytes
from fastim.server.process.pressure import ReliefOptions
from fastim.server.recovery.options import RecoveryOptions
from fastim.server.sections import HistoryVisibility, ParserChoice
from fastim.server.service import ServiceOptions
from fastim.server.socketio.options import SocketIOOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastim._core.hub import Hub
    from fastim.im.session import Session
    from fastim.server.settings import Settings

__all__ = [
    "admission",
    "block_list",
    "connect_limiter",
    "drain_options",
    "engine_options",
    "front_options",
    "hand_over_options",
    "heartbeat_options",
    "hub_options",
    "im_options",
    "member_limit",
    "pressure_policy",
    "recovery_options",
    "service_options",
    "socketio_options",
    "store_options",
    "storm_options",
    "tier_policies",
]

MAX_BATCH_PACKETS: Final = 1_000  # the core's bound
DEFAULT_USER_BYTES_PER_S: Final = 65_536
DEFAULT_CONVERSATION_PER_S: Final = 50
PARSERS: Final = {
    ParserChoice.AUTO: None,
    ParserChoice.JSON: int(Encoding.JSON),
    ParserChoice.MSGPACK: int(Encoding.MSGPACK),
}


def _ns(seconds: float) -> int:
    return int(seconds * 1_000_000_000)


def hub_options(settings: Settings) -> dict[str, Any]:
    """Make the keyword arguments of ``Hub``."""
    limits, deflate, batching = settings.limits, settings.deflate, settings.batching
    policies = tier_policies(settings)
    return {
        "max_message_bytes": limits.max_message_bytes,
        "max_fragments": limits.max_fragments,
        "head_bytes": limits.head_bytes,
        "head_timeout_ns": _ns(limits.head_timeout_s),
        "close_timeout_ns": _ns(limits.close_timeout_s),
        "idle_timeout_ns": _ns(limits.keep_alive_s),
        "read_budget_bytes": limits.read_budget_bytes,
        "message_budget": limits.message_budget,
        "tick_messages": limits.tick_messages,
        "max_pending": limits.pending_connections,
        "max_pending_per_address": limits.pending_connections_per_address,
        "pending_frames": limits.hello_packets,
        "pending_bytes": limits.hello_bytes,
        "outbox_bytes": policies[Tier.STANDARD].outbox_bytes,
        "max_packets": batching.max_packets or MAX_BATCH_PACKETS,
        "low_percent": batching.low_percent,
        "flush_rows": batching.flush_connections,
        "tier_weights": tuple(policies[tier].flush_weight for tier in TIERS),
        "deflate_window_bits": deflate.window_bits,
        "deflate_min_bytes": deflate.min_bytes,
        "deflate_level": deflate.level,
    }


def tier_policies(settings: Settings) -> dict[str, TierPolicy]:
    """Make what each tier may ask for."""
    sections = {
        Tier.CRITICAL: settings.tier_critical,
        Tier.STANDARD: settings.tier_standard,
        Tier.DEGRADED: settings.tier_degraded,
    }
    return {
        tier: TierPolicy(
            connections=section.connections,
            heartbeat_ns=_ns(section.heartbeat_s),
            queued_messages=section.queued_messages,
            message_bytes=section.message_bytes,
            flush_weight=section.flush_weight,
            packets_per_second=section.packets_per_second or settings.limits.packets_per_second,
            messages_per_minute=section.messages_per_minute or settings.limits.messages_per_minute,
        )
        for tier, section in sections.items()
    }


def heartbeat_options(settings: Settings) -> HeartbeatOptions:
    """Make the heartbeat's options."""
    heartbeat = settings.heartbeat
    return HeartbeatOptions(
        interval_ns=None if heartbeat.interval_s is None else _ns(heartbeat.interval_s),
        min_ns=_ns(heartbeat.min_s),
        max_ns=_ns(heartbeat.max_s),
        timeout_ns=_ns(heartbeat.timeout_s),
        misses=heartbeat.misses,
        fast_ns=heartbeat.fast_ms * 1_000_000,
        slow_ns=heartbeat.slow_ms * 1_000_000,
    )


def pressure_policy(settings: Settings) -> PressurePolicy:
    """Make what is too much for the server."""
    pressure = settings.pressure
    return PressurePolicy(
        lag_ns=pressure.lag_ms * 1_000_000,
        memory_bytes=int(pressure.memory_share * memory_limit_bytes()),
        outbox_bytes=pressure.outbox_bytes,
        rise_ns=_ns(pressure.rise_s),
        fall_ns=_ns(pressure.fall_s),
        leave_share=pressure.leave_share,
    )


def service_options(settings: Settings, node: str) -> ServiceOptions:
    """Make the service's options."""
    limits = settings.limits
    return ServiceOptions(
        node=node,
        hello_timeout_ns=_ns(limits.hello_timeout_s),
        heartbeat=heartbeat_options(settings),
        max_message_bytes=limits.max_message_bytes,
        messages_per_minute=limits.messages_per_minute,
        close_timeout_s=limits.close_timeout_s,
        leeway_s=settings.auth.leeway_s,
        login_policy=settings.session.policy,
        max_unfinished=limits.unfinished_requests,
        auth_required=settings.auth.required,
        decision_timeout_s=settings.auth.decision_timeout_s,
        messaging=settings.messaging.enabled,
        max_dynamic_namespaces=limits.dynamic_namespaces,
        flush_window_ns=_ns(settings.batching.window_ms / 1000),
        degraded_window_factor=settings.batching.degraded_factor,
        tiers=tier_policies(settings),
        pressure=pressure_policy(settings),
        relief=ReliefOptions(settings.pressure.leave_s, int(settings.pressure.retry_after_s * 1000)),
    )


def front_options(settings: Settings) -> FrontOptions:
    """Make the front's options."""
    return FrontOptions(
        path=settings.server.path,
        allowed_origins=settings.server.allowed_origins,
        token_in_url=settings.auth.token_in_url,
        deflate_window_bits=settings.deflate.window_bits if settings.deflate.enabled else 0,
        pending_per_address=settings.limits.pending_connections_per_address,
        body_timeout_ns=_ns(settings.limits.body_timeout_s),
        keep_alive=settings.limits.keep_alive_s > 0,
    )


def hand_over_options(settings: Settings) -> HandOverOptions:
    """Make the options of HTTP."""
    limits = settings.limits
    return HandOverOptions(
        head_timeout_s=limits.head_timeout_s,
        head_bytes=limits.head_bytes,
        body_timeout_s=limits.body_timeout_s,
        keep_alive_s=limits.keep_alive_s,
    )


def engine_options(settings: Settings) -> EngineOptions:
    """Make the options of Engine.IO."""
    engineio = settings.engineio
    return EngineOptions(
        transports=tuple(transport.value for transport in engineio.transports),
        ping_interval_ms=round(engineio.interval_s * 1000),
        ping_timeout_ms=round(engineio.timeout_s * 1000),
        ping_min_ms=round(engineio.ping_min_s * 1000),
        max_payload_bytes=engineio.max_payload_bytes or settings.limits.max_message_bytes,
        upgrade_timeout_ns=_ns(engineio.upgrade_timeout_s),
        cookie=engineio.cookie,
        allowed_origins=settings.server.allowed_origins,
        credentials=engineio.credentials,
        polling_sessions=engineio.polling_sessions,
        deflate_window_bits=settings.deflate.window_bits if settings.deflate.enabled else 0,
    )


def socketio_options(settings: Settings) -> SocketIOOptions:
    """Make the options of Socket.IO."""
    socketio = settings.socketio
    return SocketIOOptions(
        parser=PARSERS[socketio.parser],
        connect_timeout_ns=_ns(socketio.connect_timeout_s),
        attachments_timeout_ns=_ns(socketio.attachments_timeout_s),
        max_attachments=socketio.max_attachments,
        max_packet_bytes=socketio.max_packet_bytes,
        max_namespaces=socketio.max_namespaces,
    )


def recovery_options(settings: Settings) -> RecoveryOptions:
    """Make the options of the recovery of sockets."""
    socketio = settings.socketio
    return RecoveryOptions(
        life_ns=_ns(socketio.recovery_s),
        max_count=socketio.recovery_records,
        max_bytes=socketio.recovery_bytes,
        log_bytes=socketio.recovery_log_bytes,
        room_bytes=socketio.recovery_room_bytes,
        replay_bytes=socketio.recovery_replay_bytes,
        skips_middleware=socketio.recovery_skips_middleware,
    )


def connect_limiter(settings: Settings) -> ConnectLimiter:
    """Make the limits of connects."""
    limits = settings.limits
    return ConnectLimiter(limits.connects_per_minute, limits.connects_per_minute_per_address)


def block_list(settings: Settings, hub: Hub) -> BlockList:
    """Make the list of who is shut out, which the hub asks at accept, and tell the hub who is exempt.

    A proxy is: it is not shut out, nor bounded, for what those behind it do.
    """
    for network in (*settings.bans.allow, *settings.server.trusted_proxies):
        hub.exempt.add(network)
    return BlockList(hub.blocked, settings.bans.allow)


def admission(
    settings: Settings, blocklist: BlockList, ban: Callable[[str, str, float, str], object]
) -> Admission:
    """Make what decides about connections before they belong to a user."""
    bans, server = settings.bans, settings.server
    on = bans.automatic
    automatic = AutoBans(
        window_s=bans.window_s,
        offences=bans.address_offences if on else 0,
        refusals=bans.address_refusals if on else 0,
        address_s=bans.address_s,
        violations=bans.user_violations if on else 0,
        user_s=bans.user_s,
    )
    proxies = TrustedProxies(server.trusted_proxies, server.forwarded_header)
    return Admission(blocklist, connect_limiter(settings), proxies, automatic, ban)


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
        missed_messages=settings.socketio.recovery_messages,
        missed_bytes=settings.socketio.recovery_replay_bytes,
        dev_login=settings.dev_login,
        presence_shared_only=presence.shared_only,
        history_from_joining=messaging.members_see is HistoryVisibility.JOINED,
        allow_leave=messaging.members_may_leave,
        max_members=settings.limits.conversation_members,
        offline_grace_ms=int(presence.grace_s * 1000),
        restart_grace_ms=int(presence.restart_grace_s * 1000),
        typing_timeout_ms=int(messaging.typing_timeout_s * 1000),
        window_ms=messaging.window_ms,
        state_bytes=messaging.state_bytes,
        session_life_s=session.life_s,
        max_sessions=session.max_count,
        max_session_bytes=session.max_bytes,
        ring_bytes=messaging.ring_bytes,
        ring_total_bytes=messaging.rings_total_bytes,
        cache_entries=settings.cache.entries,
        cache_life_ms=int(settings.cache.life_s * 1000),
        replay_messages=messaging.resume_messages,
        outbox_bytes={tier: policy.outbox_bytes for tier, policy in tier_policies(settings).items()},
        page_bytes=messaging.history_bytes,
        delivered_members=messaging.delivered_members,
        read_members=messaging.read_members,
        ack_timeout_ms=int(messaging.ack_timeout_s * 1000),
        ack_retries=messaging.ack_retries,
        undelivered_after_ms=int(messaging.undelivered_after_s * 1000),
        pause_writes=max(1, settings.store.max_queued // 4),
        max_writes=settings.store.max_queued,
        pause_bytes=settings.store.max_queued_bytes // 4,
        max_write_bytes=settings.store.max_queued_bytes,
        storm=storm_options(settings),
        limit_members=member_limit(settings),
    )


def drain_options(settings: Settings) -> DrainOptions:
    """Make the options of the end."""
    drain = settings.drain
    return DrainOptions(
        drain.within_s, drain.deadline_s, drain.quick_deadline_s, drain.retry_after_ms, drain.to
    )


def storm_options(settings: Settings) -> StormOptions:
    """Make the limits of messages. Users without a limit are trusted: other defaults do not hold either."""
    storm, per_minute = settings.storm, settings.limits.messages_per_minute
    user_bytes, conversation = storm.user_bytes_per_second, storm.conversation_per_second
    if user_bytes is None:
        user_bytes = DEFAULT_USER_BYTES_PER_S if per_minute else 0
    if conversation is None:
        conversation = DEFAULT_CONVERSATION_PER_S if per_minute else 0
    return StormOptions(
        user_per_minute=per_minute,
        tier_per_minute={
            tier: policy.messages_per_minute for tier, policy in tier_policies(settings).items()
        },
        user_bytes_per_s=user_bytes,
        user_burst_bytes=storm.user_burst_bytes,
        conversation_per_s=conversation,
        conversation_burst=storm.conversation_burst,
        server_per_s=storm.server_per_second,
        server_burst=storm.server_burst,
        wait_ms=storm.max_wait_ms,
        queue_bytes=storm.queue_bytes,
        line_bytes=storm.conversation_queue_bytes,
        # A few messages of a usual size, and a few rounds at most for the largest.
        quantum_bytes=max(2_048, settings.limits.max_message_bytes // 64),
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
