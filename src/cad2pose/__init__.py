"""From the CAD model of a rigid part to its 6D pose in one RGB image."""

__version__ = "0.1.0"
