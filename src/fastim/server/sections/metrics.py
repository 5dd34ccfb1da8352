"""What ``/metrics`` tells."""

from __future__ import annotations

from pydantic import Field

from fastim.server.sections.base import MIN_SECRET_BYTES, SecretText, Section

__all__ = ["MetricsSettings"]


class MetricsSettings(Section):
    """`/metrics`, in the format of Prometheus."""

    enabled: bool = Field(default=True, description="Whether `/metrics` exists.")
    key: SecretText | None = Field(
        default=None,
        description="Bearer token that `/metrics` asks from addresses other than loopback, at least "
        f"{MIN_SECRET_BYTES} bytes. Unset: the API key.",
    )
