"""The last plans that clients asked for, so that one is carried out by its id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.errors import NotFoundError

if TYPE_CHECKING:
    from gateway.pruning.plan import Plan

MAX_PLANS: Final = 8
MAX_ACTIONS: Final = 200_000
"""Of all kept plans together, about 100 MB; the last plan is kept whatever its size."""


class PlanShelf:
    """Keeps the last plans, in memory."""

    def __init__(self) -> None:
        """Keep none."""
        self._plans: dict[str, tuple[Plan, int]] = {}

    def put(self, plan: Plan) -> None:
        """Keep a plan; older ones go where there are too many."""
        self._plans.pop(plan.id, None)
        self._plans[plan.id] = plan, sum(map(len, plan.units))
        while len(self._plans) > MAX_PLANS or (
            len(self._plans) > 1 and self._actions() > MAX_ACTIONS
        ):
            del self._plans[next(iter(self._plans))]

    def get(self, plan_id: str) -> Plan:
        """Return a plan.

        Raises:
            NotFoundError: it is not kept.
        """
        found = self._plans.get(plan_id)
        if found is None:
            raise NotFoundError(
                "There is no such plan: it was carried out, or newer ones have taken its place. "
                "Make a new one."
            )

        return found[0]

    def drop(self, plan_id: str) -> None:
        """Forget a plan."""
        self._plans.pop(plan_id, None)

    def _actions(self) -> int:
        return sum(actions for _, actions in self._plans.values())
