"""The pipeline: checkpoint, plan, quantize, write, verify, report."""
