defmodule LabMix do
  @moduledoc "A mix release that gets ill on demand."
  use Application

  @impl true
  def start(_type, _arguments) do
    children = for {module, arguments} <- [lab: [], lab_child: [], lab_web: [:lab_mix]], do: child(module, arguments)
    Supervisor.start_link(children, strategy: :one_for_one, max_restarts: 1000, max_seconds: 1)
  end

  defp child(module, arguments), do: %{id: module, start: {module, :start_link, arguments}}
end
