"""Rules that keep stored items bounded, with a plan before every deletion.

All but the manager is pure: items, rules, conditions, plans, and what they come to. The items are
in an `ItemStore` (`gateway.pruning.store`), in memory or in a database; nothing here knows
which. `gateway.retention` is above.
"""

from __future__ import annotations

from gateway.pruning.conditions import (
    AgeCondition,
    CountCondition,
    CustomCondition,
    Observation,
    SizeCondition,
    TokensCondition,
    Totals,
    TotalSizeCondition,
    TotalTokensCondition,
    TypeCondition,
)
from gateway.pruning.explain import Explanation
from gateway.pruning.items import ItemType, PrunableItem
from gateway.pruning.loading import plain_config, read_config
from gateway.pruning.manager import PruningManager
from gateway.pruning.memory import ArchivedItem, MemoryItemStore
from gateway.pruning.outside import EvaluationContext, Evaluator, Summarizer
from gateway.pruning.plan import (
    Plan,
    PlannedAction,
    PruningFailure,
    SkippedItem,
    SkipReason,
    read_plan,
)
from gateway.pruning.records import (
    Event,
    PrunedItem,
    PruningProgress,
    PruningResult,
    PruningStats,
    RunStarted,
    RunStatus,
)
from gateway.pruning.rules import (
    DEFAULT_PRUNING_CONFIG,
    ArchiveAction,
    CompactAction,
    DeleteAction,
    Protection,
    Protections,
    PruningBudgets,
    PruningConfig,
    PruningRule,
    RuleScope,
    SessionPruningConfig,
    SessionThresholds,
    SummarizeAction,
)
from gateway.pruning.shared import get_pruning_manager, reset_pruning_manager
from gateway.pruning.shrinking import ItemSummary
from gateway.pruning.statistics import GlobalStats, ManagerStatistics
from gateway.pruning.store import Change, ItemQuery, ItemStore, Page, StoreStatistics
from gateway.pruning.tables import PruningConfigError, RuleProblem

__all__ = [
    "DEFAULT_PRUNING_CONFIG",
    "AgeCondition",
    "ArchiveAction",
    "ArchivedItem",
    "Change",
    "CompactAction",
    "CountCondition",
    "CustomCondition",
    "DeleteAction",
    "EvaluationContext",
    "Evaluator",
    "Event",
    "Explanation",
    "GlobalStats",
    "ItemQuery",
    "ItemStore",
    "ItemSummary",
    "ItemType",
    "ManagerStatistics",
    "MemoryItemStore",
    "Observation",
    "Page",
    "Plan",
    "PlannedAction",
    "Protection",
    "Protections",
    "PrunableItem",
    "PrunedItem",
    "PruningBudgets",
    "PruningConfig",
    "PruningConfigError",
    "PruningFailure",
    "PruningManager",
    "PruningProgress",
    "PruningResult",
    "PruningRule",
    "PruningStats",
    "RuleProblem",
    "RuleScope",
    "RunStarted",
    "RunStatus",
    "SessionPruningConfig",
    "SessionThresholds",
    "SizeCondition",
    "SkipReason",
    "SkippedItem",
    "StoreStatistics",
    "SummarizeAction",
    "Summarizer",
    "TokensCondition",
    "TotalSizeCondition",
    "TotalTokensCondition",
    "Totals",
    "TypeCondition",
    "get_pruning_manager",
    "plain_config",
    "read_config",
    "read_plan",
    "reset_pruning_manager",
]
