"""`sdcore serve`: the HTTP APIs of A1111's web UI and OpenAI over one model at a time.

Only this room needs the packages of the extra `server`; nothing else imports it.
"""
