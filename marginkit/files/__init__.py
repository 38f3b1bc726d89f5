"""Files that are whole or absent, and files that anybody may have made. Imports no torch."""
