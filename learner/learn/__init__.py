"""Learn: how lessons become targets."""
