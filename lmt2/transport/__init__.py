"""Event transports: an embedded log in SQLite, and Kafka, behind one interface."""
