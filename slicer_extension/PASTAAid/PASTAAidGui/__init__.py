"""The parts of PASTA-AID that use Slicer: views, masks, terminology and the panel."""
