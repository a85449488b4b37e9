"""The words of A1111's web UI: what it calls samplers and schedules, and a picture's settings."""
