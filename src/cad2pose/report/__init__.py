"""Pages that open in a browser, without a network: results files judged, and training runs."""

from cad2pose.report.score_page import score_page
from cad2pose.report.training_page import training_page

__all__ = ["score_page", "training_page"]
