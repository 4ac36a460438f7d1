"""Who may talk, who may command, and how unknown people are paired.

`settings` says who is listed, `deciding` (pure) what that means for one message; `records`,
`approval` and `pairing` pair people and keep who was; `gate` is the one front. Knows neither
channels nor sessions nor commands: those who do ask it before anything is stored.
"""
