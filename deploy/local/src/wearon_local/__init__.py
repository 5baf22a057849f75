"""The local stack: everything the services talk to, on loopback, without Docker and without keys.

`wearon_local.stack.Stack` is what tests and the command line start; nothing here ships in a service image.
"""
