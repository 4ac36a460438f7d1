"""Starting programs that do not outlive the daemon, not even where it is killed.

`starting` prepares a start, `launcher` is what is executed first. Knows neither what is started nor
what for: `gateway.agents` and `gateway.tools` are above.
"""
