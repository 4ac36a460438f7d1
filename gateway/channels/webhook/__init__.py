"""Webhooks in: programs that post signed messages, and are posted their replies."""
