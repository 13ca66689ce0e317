"""What the numbers are, against others, in one table: ``make bench``, or with ROWS=PREFIX for some of them."""
