"""The checker of shapes and types while tests run; an int is a float there, as in PEP 484."""

from beartype import BeartypeConf, beartype

shape_check = beartype(conf=BeartypeConf(is_pep484_tower=True))
