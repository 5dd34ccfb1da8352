"""The messaging domain: conversations, delivery, resume, receipts, typing, presence. No socket, no clock."""
