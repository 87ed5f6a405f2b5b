"""The rules of the fleet as pure functions: no I/O, no clock, no database. The controller and the store stand around
them.

    plan, plan_parsing, spelling    what an operator asks for, read and spelled
    selection, selector, targets    which devices are meant, and which bundle fits one
    draw, versions, window          lots of devices, the order of versions, maintenance windows
    states, member                  where a device in a rollout can be, and what its word and the clock make of it
    decision                        what a rollout does next, given its members in numbers
"""
