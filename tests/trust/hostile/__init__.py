"""Inputs that are meant to do harm, as tables, given to a real server and a real agent.

case.py         what an input is, and what has to become of it
ground.py       the server, the device that runs a release, and what is looked at before and after each input
bundles.py      `.bundle` files, installed on the device and uploaded to the server
assignments.py  what comes to the device by MQTT: assignments, commands, acknowledgements
messages.py     what devices publish
requests.py     HTTP to operators' and devices' listeners, and metadata that operators upload
enrolment.py    EST
test_hostile.py gives them all, twice
"""
