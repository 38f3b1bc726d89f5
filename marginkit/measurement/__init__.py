"""The main job: what is asked of each sample, batch by batch, in memory or into a file."""
