"""How fast a config is and where the time goes: here, in traces, in compiled programs."""
