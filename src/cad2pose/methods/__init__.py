"""Methods: one published idea per file, from crops to poses."""

from cad2pose.methods.gdrnet import GdrNetConfig, GdrNetMethod, GdrNetOutput
from cad2pose.methods.losses import LossTerms
from cad2pose.methods.method import Method, MethodConfig, PoseMethod
from cad2pose.methods.query import LossWeights, QueryConfig, QueryMethod, QueryOutput
from cad2pose.methods.query_image import QueryImageMethod
from cad2pose.methods.regression import RegressionMethod
from cad2pose.methods.surfemb import SurfEmbConfig, SurfEmbMethod, SurfEmbOutput

__all__ = [
    "GdrNetConfig", "GdrNetMethod", "GdrNetOutput", "LossTerms", "LossWeights", "Method", "MethodConfig", "PoseMethod",
    "QueryConfig", "QueryImageMethod", "QueryMethod", "QueryOutput", "RegressionMethod", "SurfEmbConfig",
    "SurfEmbMethod", "SurfEmbOutput",
]  # fmt: skip
