"""One loop for every loss, alone or shared by processes."""
