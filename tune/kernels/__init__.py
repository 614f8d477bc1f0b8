"""Tuning of kernels: TVM's MetaSchedule searches, our kernels' tiles are what it searches, runners measure."""
