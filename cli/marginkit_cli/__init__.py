"""The `marginkit` command. A subcommand parses, makes one library call, and prints."""
