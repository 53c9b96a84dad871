"""Master: how what was learnt is made sure."""
