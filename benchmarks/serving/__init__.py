"""How elastic capacity serves: arrival traces, their replay, and what comes of it."""
