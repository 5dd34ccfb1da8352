"""The messaging domain: conversations, delivery, resume, receipts, typing, presence. Knows no socket and no clock."""
