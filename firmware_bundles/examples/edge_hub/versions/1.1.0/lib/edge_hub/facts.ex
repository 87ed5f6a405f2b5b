defmodule EdgeHub.Facts do
  @moduledoc "What the hub tells about itself; since 1.1.0 also about the machine."

  alias EdgeHub.{Counter, Lock, Machine}

  def version, do: :edge_hub |> Application.spec(:vsn) |> to_string()

  @doc "Pairs of name and value (text, integer or boolean) in the order in which they are told."
  def all do
    %{count: count, healthy: healthy} = Counter.look()

    [
      name: "edge_hub",
      version: version(),
      count: count,
      healthy: healthy,
      os_pid: String.to_integer(System.pid()),
      started_ms: Lock.started_ms(),
      site: Application.fetch_env!(:edge_hub, :site)
    ] ++ Machine.facts()
  end
end
