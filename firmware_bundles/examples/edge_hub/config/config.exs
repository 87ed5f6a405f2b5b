import Config

config :edge_hub, tick_ms: 100, save_ms: 1000

config :logger, :console, format: "$dateT$time $level $message\n"
