"""How shapes and types are checked under test: as beartype does, with an int where a float will do."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
