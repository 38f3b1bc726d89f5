"""Does one model have larger margins than another? Each file one question. Imports no torch."""
