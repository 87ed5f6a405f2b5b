"""Flashing: making a root file system, an image, a card or a running machine a device of a fleet.

    facts, target                     what a target is, and what can be done with any of them
    checks, packages, plan            pure rules: what stands against it, which package fits, what will be done
    root, image, block, ssh           the kinds of targets
    errors                            what is refused

Look, check, plan, act: nothing is written before the checks have passed and the plan was shown. It never imports the
agent: what a device needs is in its package, and `beamfleet-agent setup` lays it down.
"""
