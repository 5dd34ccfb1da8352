"""Who is let in."""

from __future__ import annotations

from pydantic import Field

from fastim.server.sections.base import MAX_S, MIN_SECRET_BYTES, SecretList, SecretText, Section

__all__ = ["AuthSettings"]


class AuthSettings(Section):
    """Who is let in."""

    required: bool = Field(
        default=True,
        description="Whether connections have to show a token. Off: those without one are let in as "
        "anonymous; the built-in events answer them `unauthorized`.",
    )
    decision_timeout_s: float = Field(
        default=5.0,
        ge=0,
        le=MAX_S,
        description="Time that each of an application's async `authenticate` and `middleware` functions has "
        "to decide about a connection; seconds. 0: no bound.",
    )
    secret: SecretText | None = Field(
        default=None,
        description=f"Secret that signs and checks tokens (HS256), at least {MIN_SECRET_BYTES} bytes. "
        "Unset: `auth.secrets`, or if they too are unset, one made in the data folder (`secret`, mode 0600).",
    )
    secrets: SecretList = Field(
        default=(),
        description="Several secrets, for rotation: the first signs, all are accepted. "
        "`auth.secret`, if set, comes before them.",
    )
    api_key: SecretText | None = Field(
        default=None,
        description=f"Key that the REST API under `/v1` asks for, at least {MIN_SECRET_BYTES} bytes. "
        "Unset: one is made in the data folder (`api_key`, mode 0600).",
    )
    dev_login: bool | None = Field(
        default=None,
        description="Whether conveniences for development are on, such as choosing a conversation's id "
        "without the scope for it. Unset: on if, and only if, `server.host` is a loopback address.",
    )
    token_in_url: bool = Field(
        default=False,
        description="Whether `?token=` is accepted; URLs end up in the logs of proxies and browsers.",
    )
    leeway_s: int = Field(
        default=10,
        ge=0,
        le=600,
        description="Difference of clocks that tokens are forgiven; seconds. 0: none.",
    )
    revocation_life_s: float = Field(
        default=2_592_000.0,
        gt=0,
        le=MAX_S,
        description=(
            "How long a revocation is kept that does not say until when: at least as long as tokens are "
            "good; seconds."
        ),
    )

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The configured secrets, the signing one first; empty if the data folder's is to be used."""
        first = () if self.secret is None else (self.secret,)
        return tuple(item.get_secret_value().encode() for item in (*first, *self.secrets))
