"""Background processes of a session: which sessions have live work.

Knows neither the store nor the turns; the store asks `has_active_for_session` before it drops.
"""
