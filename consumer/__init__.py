"""The consumer: reads documents, makes lessons of them, and decides what is worth an update."""
