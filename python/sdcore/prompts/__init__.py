"""What is written in a prompt besides words, as A1111's web UI reads it."""
