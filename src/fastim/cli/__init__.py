"""The command line: arguments become settings, settings are run. Only here is anything printed or exited."""
