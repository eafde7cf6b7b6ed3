"""The console command ``fedjax-med``."""
