"""The leak meter: critiques that state the answer, and answers that mention their critique.

    leak(critique, reference)    what is given away and where, without a model
    LeakMeter(judge)             the same, with a model as second opinion
    LeakGuard(source, policy)    a source whose leaks are kept, redacted, dropped or fatal
    mentions_critique(answer)    whether an answer mentions its critique or an earlier attempt

`benchmarks/leakage/` has the figures: precision and recall on 400 critiques.
"""

from didact.leakage.detect import leak
from didact.leakage.guard import LeakGuard, LeakMeter
from didact.leakage.phrases import mentions_critique
from didact.leakage.query import Evidence, Leak

__all__ = ["Evidence", "Leak", "LeakGuard", "LeakMeter", "leak", "mentions_critique"]
