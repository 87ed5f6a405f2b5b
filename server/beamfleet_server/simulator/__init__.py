"""The fleet simulator behind `beamfleet simulate`: thousands of devices in one process, which speak the real protocol.

A client of a server like any device: it imports nothing of the server's store, API, rules or broker.

    scenario   what people write: shares of behaviour        fate        the same for one device and one update; pure
    memory     what a device keeps over its power cuts       device      one device: assignments, updates, what it says
    report     its messages                                  telemetry   how it is, and what of that it tells
    voice      numbers, acknowledgements, sending again      link        one MQTT session over mTLS, in the event loop
    enrolment  keys and certificates, over EST               authority   the signed metadata, verified once for all
    tally      what is counted                               world       what a device stands on
    fleet      all of them together, and their end
"""
