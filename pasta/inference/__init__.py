"""From a CT to labelmap, tumour probability and report."""
