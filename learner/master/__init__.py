"""Master: how what was learnt is made sure, and what was known is kept."""
