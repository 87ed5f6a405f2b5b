defmodule ForeignMix.MixProject do
  use Mix.Project

  def project do
    [
      app: :foreign_mix,
      version: "0.3.0",
      deps: [],
      releases: [
        foreign_mix: [
          steps: [:assemble, :tar],
          cookie: "cookie-of-the-foreign-mix-project"
        ]
      ]
    ]
  end

  def application, do: [mod: {ForeignMix, []}, extra_applications: [:logger]]
end
