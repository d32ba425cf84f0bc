"""What the commands share: flags and their mistakes, how a run ends, a config from start to end."""
