"""What the exchange is: hosts, limits, models, headers. No I/O and no clock."""
