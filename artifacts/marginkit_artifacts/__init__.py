"""Models and tables to compare with: data, installed as `marginkit_artifacts`."""
