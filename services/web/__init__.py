"""Pages for people, rendered on the server; they load nothing from other hosts."""
