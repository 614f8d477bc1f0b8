"""Architecture search: quality, latency of the compiled artifact and size, on one study that many workers share."""
