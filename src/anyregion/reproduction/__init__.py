"""The tables of both papers as data: what each row needs, its commands, its published figures."""
