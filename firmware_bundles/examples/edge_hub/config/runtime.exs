import Config

# Read on the device at each start, before any application starts.
if config_env() == :prod do
  config :edge_hub,
    port: "EDGE_HUB_PORT" |> System.get_env("8090") |> String.to_integer(),
    data: System.get_env("BEAMFLEET_DATA", "data"),
    site: System.get_env("EDGE_HUB_SITE", "unknown")
end
