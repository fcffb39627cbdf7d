"""What the stress tests share."""
