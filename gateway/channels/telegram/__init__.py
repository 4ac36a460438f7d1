"""Telegram: one bot, by long polling or by webhook."""
