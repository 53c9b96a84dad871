"""What a Kafka engineer asks of the consumer: how fast it takes records in, and what it loses when things break."""
