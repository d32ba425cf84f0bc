"""The parts of report.py's page: reading runs, drawing, and one module for each kind of section."""
