"""The commands, one file each, with ``define_flags(flags, arguments)`` and ``run(flags)``."""
