"""The queue as those see it who look after it: what is in it, who serves it, and what can be done about it."""
