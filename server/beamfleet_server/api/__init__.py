"""What the three HTTPS listeners answer: operators, devices, enrolment. One router per noun, dependencies by
constructor."""
