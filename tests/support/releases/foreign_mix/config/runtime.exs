import Config

# FOREIGN_SITE comes from rel/env.sh.eex where the device does not set it.
config :foreign_mix,
  site: System.fetch_env!("FOREIGN_SITE"),
  port: "FOREIGN_PORT" |> System.get_env("0") |> String.to_integer()
