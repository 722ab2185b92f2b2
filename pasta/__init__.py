"""PASTA-AID core: labels, reports, volumes, networks and inference for pan-tumour CT.

Research use only. Not a medical device.
"""

__version__ = "0.1.0"

RESEARCH_USE_ONLY = "Research use only. AI output, not a diagnosis; a radiologist must check it."
