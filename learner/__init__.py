"""The learner: turns an update's lessons into a shard, and a shard into a candidate version."""
