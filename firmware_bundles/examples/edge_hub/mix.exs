defmodule EdgeHub.MixProject do
  use Mix.Project

  def project do
    [
      app: :edge_hub,
      version: "VERSION" |> File.read!() |> String.trim(),
      elixir: "~> 1.14",
      start_permanent: Mix.env() == :prod,
      deps: [],
      releases: [
        edge_hub: [
          include_executables_for: [:unix],
          steps: [:assemble, :tar]
        ]
      ]
    ]
  end

  def application do
    [
      mod: {EdgeHub.Application, []},
      extra_applications: [:logger, :sasl]
    ]
  end
end
