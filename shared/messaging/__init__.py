"""How facts travel: the Bus port and its adapters, the relay that fills it, the consumer that drains it."""
