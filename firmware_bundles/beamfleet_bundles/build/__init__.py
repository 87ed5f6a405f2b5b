"""The build side: from a release as OTP's tools pack it to a `.bundle`. Never imported on a device."""
