defmodule LabMix.Probes do
  @moduledoc "Functions of Elixir that a manifest can name as probes."

  def started?, do: :lab.startup() == :ok
  def ready?, do: :lab.readiness() == :ok
  def alive?, do: :lab.liveness() == :ok
end
