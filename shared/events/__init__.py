"""What the services tell each other. One module per publisher; `catalogue` lists them all."""
