"""The sections of the settings: each setting's name, default, unit and what 0 means.

A file a section; ``docs/settings.md`` is generated from here (``make docs``).
"""

from __future__ import annotations

from fastim.server.sections.auth import AuthSettings
from fastim.server.sections.bans import BansSettings
from fastim.server.sections.batching import BatchingSettings
from fastim.server.sections.cache import CacheSettings
from fastim.server.sections.deflate import DeflateSettings
from fastim.server.sections.drain import DrainSettings
from fastim.server.sections.engineio import EngineIOSettings
from fastim.server.sections.heartbeat import HeartbeatSettings
from fastim.server.sections.limits import LimitsSettings
from fastim.server.sections.messaging import HistoryVisibility, MessagingSettings
from fastim.server.sections.metrics import MetricsSettings
from fastim.server.sections.presence import PresenceSettings
from fastim.server.sections.pressure import PressureSettings
from fastim.server.sections.server import ServerSettings
from fastim.server.sections.session import SessionSettings
from fastim.server.sections.socketio import ParserChoice, SocketIOSettings
from fastim.server.sections.store import StoreSettings
from fastim.server.sections.storm import StormSettings
from fastim.server.sections.tiers import (
    CriticalTierSettings,
    DegradedTierSettings,
    StandardTierSettings,
)

__all__ = [
    "AuthSettings",
    "BansSettings",
    "BatchingSettings",
    "CacheSettings",
    "CriticalTierSettings",
    "DeflateSettings",
    "DegradedTierSettings",
    "DrainSettings",
    "EngineIOSettings",
    "HeartbeatSettings",
    "HistoryVisibility",
    "LimitsSettings",
    "MessagingSettings",
    "MetricsSettings",
    "ParserChoice",
    "PresenceSettings",
    "PressureSettings",
    "ServerSettings",
    "SessionSettings",
    "SocketIOSettings",
    "StandardTierSettings",
    "StoreSettings",
    "StormSettings",
]
