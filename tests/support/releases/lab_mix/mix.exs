defmodule LabMix.MixProject do
  use Mix.Project

  def project do
    [
      app: :lab_mix,
      version: "1.0.0",
      deps: [
        {:beamfleet_link, path: "_checkouts/beamfleet_link"},
        {:lab, path: "_checkouts/lab"}
      ],
      releases: [lab_mix: [steps: [:assemble, :tar]]]
    ]
  end

  def application, do: [mod: {LabMix, []}, extra_applications: [:logger]]
end
