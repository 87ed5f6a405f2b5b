"""The worker: a short-lived child of the agent that does everything heavy, and gives its memory back by ending.

__main__.py   reads one job, does it, tells how it ended
job.py        what a job stands on: paths, settings, the line to the agent
transport.py  HTTPS to the server, pinned to the fleet's authority
centre.py     what the server says, verified: metadata, assignments, the time
enrol.py      a key, a request, a certificate
fetch.py      an assignment, verified; its release, verified, in a slot
offline.py    the same from a `.bundle` file
fitness.py    whether a release can run here
"""
