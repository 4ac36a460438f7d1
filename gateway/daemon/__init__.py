"""The composition root: opens every part in order, runs it, and stops it in reverse.

Nothing else knows how the parts are wired. `parts` puts them together, `running` runs them.
"""

from __future__ import annotations

from gateway.daemon.running import offline, run, spare_the_collector

__all__ = ["offline", "run", "spare_the_collector"]
