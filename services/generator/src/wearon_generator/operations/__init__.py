"""What an operator can ask and do: one module a topic, and `cli`, which only parses and prints.

A command is a function of its topic, which takes `Connections` and answers a typed JSON object, and one
command in `cli`. It needs Redis and Supabase alone; no service has to run.
"""
