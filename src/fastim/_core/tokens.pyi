"""The letters and words that encoded values are made of; a C interface only (tokens.pxd)."""

__pyx_capi__: dict[str, object]  # the C interface
