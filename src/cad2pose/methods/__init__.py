"""Methods: one published idea per file, from crops to poses."""

from cad2pose.methods.losses import LossTerms
from cad2pose.methods.query import LossWeights, QueryConfig, QueryMethod, QueryOutput

__all__ = ["LossTerms", "LossWeights", "QueryConfig", "QueryMethod", "QueryOutput"]
