"""The shelf of commands: ``define_flags(flags)`` and ``run(flags)``, one file each."""
