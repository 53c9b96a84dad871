"""Where answers come from: the OpenAI-compatible address, its engines, and what keeps them on the promoted version."""
