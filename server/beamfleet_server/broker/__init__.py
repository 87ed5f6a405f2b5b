"""The broker: mosquitto as a child of the server, and the server's own MQTT session. The only place that knows paho."""
