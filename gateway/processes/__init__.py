"""Background processes of a session: what runs beside its turns, and outlives the gateway.

Each command has a keeper, a small program that starts it, keeps the end of its output and notes how
it ended (`keeper`). A row in the database is durable before anything is started (`records`), and
what is not proven to be the recorded keeper is never signalled (`identity`). Knows neither the
store nor the turns: the store asks `has_active_for_session` before it drops, and `on_ended` tells.
"""
