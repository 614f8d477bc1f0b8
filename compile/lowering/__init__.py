"""A plain graph -> kernel calls over tensors: which kernel computes what."""
