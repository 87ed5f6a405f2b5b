"""The rules of the fleet as pure functions: no I/O, no clock, no database. The controller and the store stand around
them."""
