"""Who may come in and how much: tokens, secrets, limits and bans. Plain values; the time comes in."""
