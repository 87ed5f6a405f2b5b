"""The worker: a short-lived child of the agent that does everything heavy, and gives its memory back by ending.

__main__.py   reads one job, does it, tells how it ended
job.py        what a job stands on: paths, settings, the line to the agent
transport.py  HTTPS to the server, pinned to the fleet's authorities
server.py     which addresses, which authorities, which pair
metadata.py   the signed metadata, kept durable; what is learnt from it; what a server lost, offered
rescue.py     the way back when nobody is trusted any more
centre.py     what the server says, verified: assignments, releases, the time
identity.py   the files that say who this device is
enrol.py      a key, a request, a certificate
renew.py      the next key and certificate, tested before they are used
fetch.py      an assignment, verified; its release, verified, in a slot
offline.py    the same from a `.bundle` file
fitness.py    whether a release can run here
diagnose.py   the archive that helps to see why, sealed and handed over
"""
